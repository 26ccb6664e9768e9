"""Why an attempt of a job failed: one catalog of codes for the API, the worker, the training process and the docs.

The training process imports this module, so it imports nothing else of the service.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class FailureCode(StrEnum):
    """What went wrong, for programs. A job's `error.code` is one of these."""

    MODEL_NOT_FOUND = "model_not_found"
    MODEL_REFUSED = "model_refused"
    MODEL_CONFIG_INVALID = "model_config_invalid"
    CHAT_TEMPLATE_MISSING = "chat_template_missing"
    ARCHITECTURE_UNSUPPORTED = "architecture_unsupported"
    HUB_UNREACHABLE = "hub_unreachable"
    DATA_NOT_FOUND = "data_not_found"
    DATA_NEEDS_CODE = "data_needs_code"
    DATA_CHANGED = "data_changed"
    COLUMN_MISSING = "column_missing"
    BAD_ROWS = "bad_rows"
    NO_ROWS = "no_rows"
    SINGLE_CLASS = "single_class"
    TOO_MANY_CLASSES = "too_many_classes"
    CLASS_UNKNOWN = "class_unknown"
    METRIC_UNAVAILABLE = "metric_unavailable"
    ROW_TOO_LONG = "row_too_long"
    PRECISION_UNSUPPORTED = "precision_unsupported"
    GPU_MISSING = "gpu_missing"
    ENGINE_MISSING = "engine_missing"
    RESULT_DIFFERS = "result_differs"
    LOSS_NOT_FINITE = "loss_not_finite"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    STORAGE_FULL = "storage_full"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    CHECKPOINT_BROKEN = "checkpoint_broken"
    TRAINING_PROCESS_DIED = "training_process_died"
    TRAINING_HUNG = "training_hung"
    WORKER_LOST = "worker_lost"
    SPEC_UNSUPPORTED = "spec_unsupported"
    INPUT_GONE = "input_gone"
    TIMEOUT = "timeout"
    INTERNAL_ERROR = "internal_error"


class Counted(StrEnum):
    """What a failure is counted as."""

    ATTEMPT = "attempt"
    """A failed attempt: `failures` increases by 1."""
    WORKER = "worker"
    """A lost worker: `workers_lost` increases by 1."""
    MEMORY_RETRY = "memory_retry"
    """Nothing if smaller batches can be tried, otherwise a failed attempt."""
    POSTPONED = "postponed"
    """Nothing: the job is not to blame and starts again later."""
    NOTHING = "nothing"


@dataclass(frozen=True)
class FailureKind:
    """The properties that all failures with one code share."""

    meaning: str
    """One line for the table of codes in docs/job-lifecycle.md."""
    hint: str
    """What to do, unless the failure has its own hint."""
    retryable: bool = False
    """Whether the same attempt may succeed when it is made again."""
    counted: Counted = Counted.ATTEMPT

    @property
    def retried(self) -> str:
        """The column "retried" of the table of codes."""
        match self.counted:
            case Counted.POSTPONED:
                return "yes, a minute later, not counted"
            case Counted.MEMORY_RETRY:
                return 'with `"auto"` batch sizes: with half the rows per forward pass, not counted'
            case Counted.WORKER:
                return "yes, counted in `workers_lost`"
            case Counted.ATTEMPT | Counted.NOTHING:
                return "yes" if self.retryable else "no"


CATALOG: Mapping[FailureCode, FailureKind] = {
    FailureCode.MODEL_NOT_FOUND: FailureKind(
        "the model is unknown to the hub or to the server's models folder",
        "Check model.id and model.revision; a private or gated model needs the server's own hub token.",
    ),
    FailureCode.MODEL_REFUSED: FailureKind(
        "the model is unsafe to load, incomplete, or does not support the task",
        "Use a model with safetensors weights and no code of its own.",
    ),
    FailureCode.MODEL_CONFIG_INVALID: FailureKind(
        "the model does not support a setting, or the method would train no weights",
        "Leave the setting out of model.config, or give it a value that this model supports.",
    ),
    FailureCode.CHAT_TEMPLATE_MISSING: FailureKind(
        "the rows are conversations, and the tokenizer has no chat template",
        'Use an instruction-tuned model, or task.format "prompt-completion", which needs no template.',
    ),
    FailureCode.ARCHITECTURE_UNSUPPORTED: FailureKind(
        "transformers has no such model for the task, or the engine `tensorflow` cannot train it",
        'Use training.engine "trainer" or "pytorch", which support every architecture.',
    ),
    FailureCode.HUB_UNREACHABLE: FailureKind(
        "the hub does not answer",
        "Check the worker's network and HF_ENDPOINT, or use a model of the server's models folder (`local:NAME`) "
        "and an uploaded dataset.",
        retryable=True,
    ),
    FailureCode.DATA_NOT_FOUND: FailureKind(
        "the dataset, its configuration, split or revision does not exist or cannot be read",
        "Check the dataset's id, config, split and revision.",
    ),
    FailureCode.DATA_NEEDS_CODE: FailureKind(
        "the hub dataset needs its own loading code, which Tunesmith never runs",
        "Convert the dataset to Parquet once, on a machine of yours, and upload the files or push them to the hub; "
        'many such datasets have a converted branch: data.*.revision "refs/convert/parquet".',
    ),
    FailureCode.DATA_CHANGED: FailureKind(
        "the rows are not those of the first attempt",
        "Submit a new job. Pin data.train.revision so that a hub dataset cannot change.",
    ),
    FailureCode.COLUMN_MISSING: FailureKind(
        "a split lacks a column that the task needs",
        "Name the right column in data.columns.",
    ),
    FailureCode.BAD_ROWS: FailureKind(
        "rows are unusable; `details` has split, row, line and column",
        'Fix the rows, or skip such rows with data.on_bad_row: "skip".',
    ),
    FailureCode.NO_ROWS: FailureKind(
        "a split has no usable rows, or too few",
        "Give the split more rows, or check why its rows were left out.",
    ),
    FailureCode.SINGLE_CLASS: FailureKind(
        "all train rows have the same class",
        "Give train rows of at least two classes, or check data.columns.label.",
    ),
    FailureCode.TOO_MANY_CLASSES: FailureKind(
        "the label column has too many different values",
        "Check data.columns.label: it should hold a class, not an id or a measurement.",
    ),
    FailureCode.CLASS_UNKNOWN: FailureKind(
        "a row or a setting names a class that does not exist",
        "Spell the classes as they appear in the label column.",
    ),
    FailureCode.METRIC_UNAVAILABLE: FailureKind(
        "the evaluated rows do not allow a metric that the spec names",
        "Name other metrics in evaluation, or none: the default metrics depend on the rows.",
    ),
    FailureCode.ROW_TOO_LONG: FailureKind(
        "a row has more tokens than `tokenization.max_length`, and truncation is off",
        "Raise tokenization.max_length, shorten the row, or set tokenization.truncation to true.",
    ),
    FailureCode.PRECISION_UNSUPPORTED: FailureKind(
        "the worker cannot compute in this precision, or only emulates it",
        'Use training.precision "auto".',
    ),
    FailureCode.GPU_MISSING: FailureKind(
        "the job needs a GPU, and the worker has none",
        'Start a worker on a machine with a GPU, or ask for resources.gpus "auto".',
        retryable=True,
    ),
    FailureCode.ENGINE_MISSING: FailureKind(
        "the worker's environment with TensorFlow is gone",
        "Run `make install-tensorflow`, or set TUNESMITH_TENSORFLOW_PYTHON to an environment that has it.",
        retryable=True,
    ),
    FailureCode.RESULT_DIFFERS: FailureKind(
        "PyTorch and TensorFlow compute different outputs from the same weights",
        'Nothing was published. Use training.engine "trainer" or "pytorch" for this model.',
    ),
    FailureCode.LOSS_NOT_FINITE: FailureKind(
        "the loss became NaN or infinite",
        "Lower training.learning_rate, add warmup_steps, or use a wider precision than fp16.",
    ),
    FailureCode.OUT_OF_MEMORY: FailureKind(
        "memory ran out; `details.peak_bytes` has the peak",
        "Lower training.batch_size (and raise gradient_accumulation by as much), lower tokenization.max_length, "
        "or set training.gradient_checkpointing.",
        counted=Counted.MEMORY_RETRY,
    ),
    FailureCode.DISK_FULL: FailureKind(
        "the worker's disk is full; the worker takes no job until the retry",
        "Free some space on the disk that holds the worker's TUNESMITH_CACHE_DIR; a running job needs its model about "
        "`4 + checkpoints.keep` times over. The next attempt resumes from the newest checkpoint.",
        retryable=True,
        counted=Counted.POSTPONED,
    ),
    FailureCode.STORAGE_FULL: FailureKind(
        "the storage is full",
        "Free some space, or raise the quota of the storage. The job is retried automatically, from its newest "
        "checkpoint.",
        retryable=True,
        counted=Counted.POSTPONED,
    ),
    FailureCode.STORAGE_UNAVAILABLE: FailureKind(
        "a storage operation failed",
        "The worker's log has the cause. The job is retried automatically.",
        retryable=True,
        counted=Counted.POSTPONED,
    ),
    FailureCode.CHECKPOINT_BROKEN: FailureKind(
        "a checkpoint or model folder on the worker is incomplete or changed",
        "The next attempt resumes from the newest checkpoint whose files verify. If this happens again, check "
        "the worker's disk.",
        retryable=True,
    ),
    FailureCode.TRAINING_PROCESS_DIED: FailureKind(
        "the training process ended without a result",
        "It was killed from outside or crashed in native code; the system log may say why (an out-of-memory "
        "kill appears "
        "there as SIGKILL). The next attempt resumes from the newest checkpoint.",
        retryable=True,
    ),
    FailureCode.TRAINING_HUNG: FailureKind(
        "the training process reported nothing for too long",
        "The next attempt resumes from the newest checkpoint. If one step really takes this long, raise "
        "TUNESMITH_HUNG_SECONDS on the worker.",
        retryable=True,
    ),
    FailureCode.WORKER_LOST: FailureKind(
        "the worker stopped renewing its lease",
        "The next attempt resumes from the newest checkpoint. The worker's own log may say why the worker died.",
        retryable=True,
        counted=Counted.WORKER,
    ),
    FailureCode.SPEC_UNSUPPORTED: FailureKind(
        "another version accepted the spec, and this worker does not; the message names the field",
        "Post a new job with that field changed, or run a worker of the version that accepted it.",
    ),
    FailureCode.INPUT_GONE: FailureKind(
        "a dataset, an earlier model or a checkpoint that the job needs was removed",
        "Upload the data again, or train the earlier model again.",
    ),
    FailureCode.TIMEOUT: FailureKind(
        "the job ran longer than `resources.timeout`",
        "Raise resources.timeout, or train for fewer epochs. Checkpoints saved so far can be downloaded.",
        counted=Counted.NOTHING,
    ),
    FailureCode.INTERNAL_ERROR: FailureKind(
        "a bug in Tunesmith; the log has the traceback",
        "The job is retried automatically. If it fails the same way again, report it with this message and the "
        "worker's log.",
        retryable=True,
    ),
}


@dataclass(frozen=True)
class Failure:
    """One failure: `message` is what is wrong and where, `hint` is what to do."""

    code: FailureCode
    message: str
    hint: str
    details: Any = None
    """More for programs, such as the row; JSON."""
    log_tail: str | None = None
    """The last lines that the training process wrote."""

    @classmethod
    def of(
        cls,
        code: FailureCode,
        message: str,
        hint: str | None = None,
        *,
        details: Any = None,
        log_tail: str | None = None,
    ) -> "Failure":
        """A failure with the catalog's hint, unless it brings its own."""
        return cls(code, message, hint or CATALOG[code].hint, details, log_tail)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], *, log_tail: str | None = None) -> "Failure":
        """Read what `to_json` wrote, here or in a training process. Raises ValueError if the code is unknown."""
        return cls.of(
            FailureCode(stored["code"]),
            stored["message"],
            stored.get("hint"),
            details=stored.get("details"),
            log_tail=stored.get("log_tail", log_tail),
        )

    @property
    def retryable(self) -> bool:
        """Whether the same attempt may succeed when it is made again."""
        return CATALOG[self.code].retryable

    @property
    def counted(self) -> Counted:
        """What the failure is counted as."""
        return CATALOG[self.code].counted

    def to_json(self) -> dict[str, Any]:
        """The `error` object as the database stores it and the API serves it."""
        stored = {"code": self.code.value, "message": self.message, "hint": self.hint}
        optional = {"details": self.details, "log_tail": self.log_tail}
        return stored | {name: value for name, value in optional.items() if value is not None}
