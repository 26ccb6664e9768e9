"""Finds the pretrained model, refuses what is not safe to load, and builds the model that every engine starts from.

A model folder holds `config.json`, safetensors weights and tokenizer files. Code and pickles are never loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, set_seed

from app.specs import JobSpec
from worker.training.errors import (
    ArchitectureUnsupported,
    ModelConfigInvalid,
    ModelNotFound,
    ModelRefused,
    nearest,
    without_paths,
)
from worker.training.models.hub import fetch
from worker.training.models.model_files import check_files
from worker.training.models.settings import settings_of
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest

SHOWN_WEIGHTS = 3
HEADLESS = "Unrecognized configuration class"
"""How transformers says that an architecture has no such head, before it names every one that has."""
OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "mpnet"})
"""Model types whose positions start after the padding id, so that they take fewer tokens than they have positions."""


@dataclass(frozen=True)
class BaseModel:
    """The pretrained model on this machine; `commit` is its hub commit, None for local ones."""

    folder: Path
    commit: str | None


def locate(request: TrainingRequest, report: Reporter) -> BaseModel:
    """Find the model of the spec and check it. Raises ModelNotFound, ModelRefused or HubUnreachable."""
    model = request.spec.model
    kind, _, name = model.id.partition(":")
    if kind == "local" and name:
        found = BaseModel(_local(request.models_dir, name), None)
    elif kind == "job" and name:
        found = BaseModel(_of_job(request.jobs_models, name), None)
    else:
        pinned = request.resolved.model_commit if request.resolved else None
        found = BaseModel(*fetch(model.id, pinned or model.revision or "main", report))
    check_files(found.folder, model.id)
    return found


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, with a padding token. Raises ModelRefused."""
    try:
        tokenizer = cast("Any", AutoTokenizer).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelRefused(f"its tokenizer cannot be loaded: {without_paths(str(error))}") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelRefused("its tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(folder: Path, spec: JobSpec) -> Any:
    """The folder's configuration with the spec's overrides. Raises ModelConfigInvalid."""
    overrides = spec.model.config
    try:
        config = cast("Any", AutoConfig).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        known = settings_of(type(config))
        unknown = [name for name in overrides if name not in known]
        for name in overrides.keys() - unknown:
            # Never an argument of from_pretrained, where a name such as `subfolder` has another meaning.
            setattr(config, name, overrides[name])
    except Exception as error:
        # Every model's configuration checks its values in its own way.
        raise ModelConfigInvalid(f"the model's configuration cannot be read: {without_paths(str(error))}") from error
    if unknown:
        raise ModelConfigInvalid(
            f"model.config.{unknown[0]} is no setting of a {config.model_type} model.{nearest(unknown[0], known)}"
        )
    return config


def build(
    kind: Any, folder: Path, spec: JobSpec, head: Mapping[str, Any], **loading: Any
) -> tuple[Any, tuple[str, ...]]:
    """Load pretrained weights into a model of class `kind`, its missing head randomly initialized from the spec's seed.

    `head` are settings of the configuration, `loading` arguments of `from_pretrained`. Returns the model, in float32
    where `loading` says nothing else, and the names of the new parameters. Raises ModelRefused where the weights do not
    fit the body, ArchitectureUnsupported where there is no such class for it, ModelConfigInvalid for settings that the
    model does not take.
    """
    config = load_config(folder, spec)
    for key, value in head.items():
        setattr(config, key, value)
    set_seed(spec.training.seed)
    model, info = _from_pretrained(kind, folder, spec, config, **loading)
    new = _new_parameters(model, info)
    if spec.training.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ModelConfigInvalid(
            f"{type(model).__name__} cannot do gradient checkpointing", "Set training.gradient_checkpointing to false."
        )
    return model, new


def load(kind: Any, folder: Path, spec: JobSpec) -> Any:
    """Load a model of class `kind` that `save_pretrained` wrote, whole. Raises ModelRefused."""
    model, info = _from_pretrained(kind, folder, spec, None)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ModelRefused(f"{folder.name}: weights are missing: {sorted(info['missing_keys'])[:SHOWN_WEIGHTS]}")
    if info["unexpected_keys"]:
        raise ModelRefused(f"{folder.name}: weights of no use: {sorted(info['unexpected_keys'])[:SHOWN_WEIGHTS]}")
    return model


def token_limit(config: Any, tokenizer: Any) -> int | None:
    """Tokens that the model takes at most, or None where it sets no bound."""
    limits: list[int] = []
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        offset = (config.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0
        limits.append(positions - offset)
    # Tokenizers without a limit carry a huge number.
    if tokenizer.model_max_length < 10**9:
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=None)


def _local(models_dir: Path | None, name: str) -> Path:
    if models_dir is None:
        raise ModelNotFound("this server has no models folder", "Set TUNESMITH_MODELS_DIR, or use a hub model.")
    if "/" in name or name in (".", ".."):
        raise ModelNotFound(f"'local:{name}' is not the name of a folder")
    folder = models_dir / name
    if not folder.is_dir():
        present = sorted(path.name for path in models_dir.iterdir() if path.is_dir()) if models_dir.is_dir() else []
        there = f"there are: {', '.join(present[:20])}" if present else "the models folder is empty"
        raise ModelNotFound(f"there is no local model '{name}'; {there}.{nearest(name, present)}")
    return folder


def _of_job(models: dict[str, Path], job: str) -> Path:
    folder = models.get(job)
    if folder is None or not folder.is_dir():
        raise ModelNotFound(f"the model of {job} is not here", "The job must have succeeded and still have its model.")
    return folder


def _from_pretrained(kind: Any, folder: Path, spec: JobSpec, config: Any, **loading: Any) -> tuple[Any, dict[str, Any]]:
    attention = spec.model.attn_implementation
    chosen = {} if attention == "auto" else {"attn_implementation": attention}
    try:
        return kind.from_pretrained(
            folder,
            **({} if config is None else {"config": config}),
            **chosen,
            **loading,
            dtype="float32",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (ImportError, ValueError, TypeError, KeyError) as error:
        if HEADLESS in str(error):
            raise ArchitectureUnsupported(
                f"transformers has no {spec.task.type} model of the type {config.model_type if config else folder.name}",
                f"Choose a model of another type; {kind.__name__} in the documentation of transformers lists those it has.",
            ) from error
        raise ModelConfigInvalid(f"the model cannot be built: {without_paths(str(error))}") from error
    except (OSError, SafetensorError) as error:
        raise ModelRefused(f"the model's weights cannot be loaded: {without_paths(str(error))}") from error


def _new_parameters(model: Any, info: dict[str, Any]) -> tuple[str, ...]:
    missing = {str(name) for name in info["missing_keys"]}
    mismatched = {str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"]}
    body = f"{model.base_model_prefix}."
    # A head may have any shape, and encoders trained without a pooler get a new one. All else must come from the file.
    unfit = sorted(
        [name for name in missing if name.startswith(body) and "pooler" not in name]
        + [name for name in mismatched if name.startswith(body)]
    )
    if unfit:
        raise ModelRefused(
            f"the weights do not fit the model: {len(unfit)} are missing or of another shape, "
            f"such as {', '.join(unfit[:SHOWN_WEIGHTS])}",
            "Check that config.json and the weights belong together, and that model.config changes no sizes.",
        )
    return tuple(sorted(missing | mismatched))
