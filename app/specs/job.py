"""What a job may ask for: the body of `POST /v1/jobs`."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, StringConstraints, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from app.specs.compatibility import incompatibility, supports
from app.specs.data import Data
from app.specs.display_text import ONE_LINE
from app.specs.durations import seconds
from app.specs.model_settings import setting_problem
from app.specs.size import LIMIT_BYTES, is_too_large
from app.specs.streaming import stream_incompatibility
from app.specs.strict import STORED, Strict
from app.specs.tasks import Task
from app.specs.token_batches import token_batch_incompatibility
from app.specs.training import BatchSize, Training

Cadence = Literal["none", "epoch", "steps"]
SettingName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
SettingText = Annotated[str, StringConstraints(max_length=200)]
JobName = Annotated[str, StringConstraints(min_length=1, max_length=200), ONE_LINE]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64), ONE_LINE]
MetadataValue = Annotated[str, StringConstraints(max_length=512), ONE_LINE]

MODEL_ID = re.compile(r"^(local:[\w][\w.-]*|job:job_[0-9a-z]{26}|[\w][\w.-]*(/[\w][\w.-]*)?)$")


class Model(Strict):
    """The pretrained model to start from."""

    id: str = Field(
        min_length=1,
        max_length=200,
        json_schema_extra={"pattern": MODEL_ID.pattern},
        description="A hub id (`google-bert/bert-base-cased`), `local:NAME` (a folder of the server's models "
        "directory), "
        "or `job:ID` (the model of an earlier job).",
    )
    revision: str | None = Field(
        default=None, max_length=200, description="A branch, tag or commit on the hub; `main` without it."
    )
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto", description="The attention kernel. `auto` lets transformers choose."
    )
    config: dict[SettingName, bool | int | float | SettingText | None] = Field(
        default_factory=dict, max_length=50, description="Overrides of the model's configuration, such as dropout."
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """An object, or only its id."""
        return {
            "anyOf": [{"type": "string", "minLength": 1, "maxLength": 200}, handler(core)],
            "description": cls.__doc__,
        }

    @field_validator("id")
    @classmethod
    def _id_has_a_known_form(cls, model_id: str) -> str:
        # Not a pattern of Field, whose error shows only the pattern. Also, "$" alone would allow a line break.
        if MODEL_ID.fullmatch(model_id) is None:
            raise ValueError("must be a hub id such as 'google-bert/bert-base-cased', or 'local:NAME', or 'job:ID'")
        return model_id

    @field_validator("config")
    @classmethod
    def _config_has_known_settings(cls, config: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if info.context == STORED:
            return config
        for key in config:
            if problem := setting_problem(key):
                raise PydanticCustomError("setting", "{problem}", {"problem": problem})
        return config


class Evaluation(Strict):
    """When to evaluate, and with which metrics."""

    strategy: Cadence = Field(default="epoch", description="When: never, after each epoch, or every `every` steps.")
    every: int | None = Field(
        default=None, ge=1, le=100_000_000, description="Steps between evaluations, with `steps`."
    )
    at_start: bool = Field(default=False, description="Also evaluate once before the first step, as a baseline.")
    batch_size: BatchSize = Field(default="auto", description="Rows per forward pass, 1 to 4096, or `auto`.")
    metrics: list[Annotated[str, StringConstraints(max_length=100)]] | None = Field(
        default=None,
        min_length=1,
        max_length=20,
        description="The metrics to compute, from the task's `metrics` in GET /v1/tasks. Without it: the task's "
        "usual metrics.",
    )
    best_by: str | None = Field(
        default=None,
        max_length=100,
        description="The metric, or `loss`, that selects the best checkpoint. Without it: the first of "
        "`metrics`. Ties go to the lower loss, then to the later checkpoint.",
    )
    predictions: bool = Field(default=True, description="Publish the predictions for eval together with their rows.")

    @model_validator(mode="after")
    def _every_goes_with_steps(self) -> Self:
        _check_cadence(self.strategy, self.every)
        return self


class Checkpoints(Strict):
    """When to save a checkpoint that training can continue from."""

    strategy: Cadence = Field(default="epoch", description="When: never, after each epoch, or every `every` steps.")
    every: int | None = Field(
        default=None, ge=1, le=100_000_000, description="Steps between checkpoints, with `steps`."
    )
    keep: int = Field(default=2, ge=1, le=100, description="How many of the newest to keep, besides the best.")

    @model_validator(mode="after")
    def _every_goes_with_steps(self) -> Self:
        _check_cadence(self.strategy, self.every)
        return self


class Tokenization(Strict):
    """How text becomes tokens."""

    max_length: int = Field(
        default=512,
        ge=2,
        le=1_000_000,
        description="The maximum number of tokens per row; the model's own limit also applies.",
    )
    padding: Literal["longest", "max_length"] = Field(
        default="longest", description="Pad to the longest row of a batch, or always to `max_length`."
    )
    truncation: bool = Field(default=True, description="Truncate longer rows. If false, a longer row is an error.")


class Resources(Strict):
    """What the job needs to run."""

    gpus: Annotated[int, Field(ge=0, le=1)] | Literal["auto"] = Field(
        default="auto", description="GPUs needed: 0, 1, or `auto` (one if the worker has one)."
    )
    timeout: str = Field(
        default="6h",
        max_length=20,
        description="How long the job may run in total, such as `90s`, `30m`, `6h` or `2d`; 30 days at most.",
    )

    @field_validator("timeout")
    @classmethod
    def _timeout_is_a_duration(cls, timeout: str) -> str:
        seconds(timeout)
        return timeout


class JobSpec(Strict):
    """A fine-tuning job. Only `task`, `model` and `data.train` are required."""

    name: JobName | None = Field(default=None, description="A name for display; it need not be unique.")
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict, max_length=16, description="Up to 16 pairs of text that listing can filter by."
    )
    priority: int = Field(default=0, ge=-100, le=100, description="Higher runs first.")
    task: Task = Field(description="What the model learns to do.")
    model: Model = Field(description="The pretrained model: an object, or only its id.")
    data: Data = Field(description="The rows to train and evaluate on.")
    tokenization: Tokenization = Field(default_factory=Tokenization, description="How text becomes tokens.")
    training: Training = Field(default_factory=Training, description="How to train.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="When to evaluate, and with which metrics.")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="When to save checkpoints.")
    export: list[Literal["saved_model"]] = Field(
        default_factory=list[Literal["saved_model"]],
        max_length=1,
        description="Additional formats to publish: `saved_model` is TensorFlow's own format, with the engine "
        "`tensorflow`.",
    )
    resources: Resources = Field(default_factory=Resources, description="What the job needs to run.")

    @model_validator(mode="before")
    @classmethod
    def _is_not_too_large(cls, spec: Any, info: ValidationInfo) -> Any:
        if info.context != STORED and is_too_large(spec):
            raise PydanticCustomError(
                "spec_too_large",
                "has more than {limit} KiB without inline rows; upload large data with POST /v1/datasets",
                {"limit": LIMIT_BYTES // 1024},
            )
        return spec

    @field_validator("model", mode="before")
    @classmethod
    def _model_may_be_a_plain_id(cls, model: Any) -> Any:
        return {"id": model} if isinstance(model, str) else model

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        roles = tuple(dict.fromkeys((*self.task.roles, *(role.name for role in self.task.known_roles))))
        for role in self.data.columns:
            if role not in roles:
                raise _incompatible(
                    f"data.columns.{role}", f"is not a role of {self.task.type}; its roles are {', '.join(roles)}"
                )
        if self.data.eval is not None and self.data.eval_fraction is not None:
            raise _incompatible("data.eval_fraction", "give either 'eval' or 'eval_fraction', not both")
        if self.training.early_stopping and not self.evaluates:
            raise _incompatible(
                "training.early_stopping", "needs evaluation: give data.eval or data.eval_fraction, and a strategy"
            )
        for metric in self.metrics:
            if metric not in self.task.metrics:
                known = ", ".join(self.task.metrics)
                raise _incompatible(
                    "evaluation.metrics",
                    f"'{metric}' is not a metric of this {self.task.type}; its metrics are {known}",
                )
        best_by = self.evaluation.best_by
        if best_by is not None and best_by != "loss" and best_by not in self.metrics:
            raise _incompatible(
                "evaluation.best_by", f"'{best_by}' is not computed; metrics are {', '.join(self.metrics)}"
            )
        if refused := (
            stream_incompatibility(self.data, self.training, self.task)
            or incompatibility(self)
            or token_batch_incompatibility(self)
        ):
            raise _incompatible(*refused)
        return self

    @property
    def has_eval_data(self) -> bool:
        """Whether there are rows to evaluate on."""
        return self.data.eval is not None or self.data.eval_fraction is not None

    @property
    def evaluates(self) -> bool:
        """Whether checkpoints are evaluated during training."""
        return self.has_eval_data and self.evaluation.strategy != "none"

    @property
    def may_use_gpu(self) -> bool:
        """Whether the job may compute on a GPU: the engine can, and the spec does not say otherwise."""
        return self.resources.gpus != 0 and supports(self.training.engine, "resources.gpus", 1)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics to compute: those in the spec, or the task's usual ones."""
        return tuple(self.evaluation.metrics or self.task.default_metrics)

    @property
    def requested_metrics(self) -> tuple[str, ...]:
        """The metrics that the spec itself names."""
        best_by = self.evaluation.best_by
        return tuple(dict.fromkeys((*(self.evaluation.metrics or ()), *([best_by] if best_by else []))))

    @property
    def best_by(self) -> str:
        """The metric that selects the best checkpoint."""
        return self.evaluation.best_by or self.metrics[0]

    @property
    def columns(self) -> dict[str, str]:
        """Role to column name: every required role, and the optional roles that the spec names."""
        return {role: self.data.columns.get(role, role) for role in self.task.roles} | self.data.columns


def _check_cadence(strategy: Cadence, every: int | None) -> None:
    if strategy == "steps" and every is None:
        raise ValueError("strategy 'steps' needs 'every', the number of steps")
    if strategy != "steps" and every is not None:
        raise ValueError(f"'every' goes with strategy 'steps', not '{strategy}'")


def _incompatible(field: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("misfit", "{reason}", {"field": field, "reason": reason})
