"""Everything that can go wrong in training, each with a code, a hint and whether another attempt may help.

    TrainingError                 code                   retryable
    ├── ModelNotFound             model_not_found        no
    ├── ModelRefused              model_refused          no
    ├── ModelConfigInvalid        model_config_invalid   no
    ├── ArchitectureUnsupported   architecture_unsupported no
    ├── ChatTemplateMissing       chat_template_missing  no
    ├── ResultDiffers             result_differs         no
    ├── EngineMissing             engine_missing         yes
    ├── ProcessDied               training_process_died  yes
    ├── HubUnreachable            hub_unreachable        yes
    ├── DataNotFound              data_not_found         no
    ├── DataNeedsCode             data_needs_code        no
    ├── ColumnMissing             column_missing         no
    ├── BadRows                   bad_rows               no
    ├── NoRows                    no_rows                no
    ├── DataChanged               data_changed           no
    ├── SingleClass               single_class           no
    ├── TooManyClasses            too_many_classes       no
    ├── ClassUnknown              class_unknown          no
    ├── RowTooLong                row_too_long           no
    ├── PrecisionUnsupported      precision_unsupported  no
    ├── GpuMissing                gpu_missing            yes
    ├── LossNotFinite             loss_not_finite        no
    ├── OutOfMemory               out_of_memory          no
    ├── DiskFull                  disk_full              yes
    ├── CheckpointBroken          checkpoint_broken      yes
    └── InternalError             internal_error         yes

`Stopped` is no failure: it ends a run that was asked to stop.
"""

import errno
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any, ClassVar

from app.specs.rows import RowProblem

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when a disk, a quota or a limit has no room."""
SHOWN_PROBLEMS = 20
TRACEBACK_LINES = 12


class Stopped(Exception):
    """The stop event was set; unwinds to `run`, which reports `stopped`."""


class TrainingError(Exception):
    """A run ended without a model. `message` says what is wrong and where, `hint` what to do."""

    code: ClassVar[str]
    default_hint: ClassVar[str]
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, hint: str | None = None, details: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.details = details

    def as_record(self) -> dict[str, Any]:
        """The `error` object of a `result` record."""
        record = {"code": self.code, "message": self.message, "hint": self.hint}
        return record if self.details is None else {**record, "details": self.details}


class ModelNotFound(TrainingError):
    code = "model_not_found"
    default_hint = "Check model.id and model.revision; a private or gated model needs the server's own hub token."


class ModelRefused(TrainingError):
    code = "model_refused"
    default_hint = "Use a model with safetensors weights and no code of its own."


class ModelConfigInvalid(TrainingError):
    code = "model_config_invalid"
    default_hint = "Leave the setting out of model.config, or give it a value that this model takes."


class ArchitectureUnsupported(TrainingError):
    code = "architecture_unsupported"
    default_hint = 'Use training.engine "trainer" or "pytorch", which take every architecture.'


class ChatTemplateMissing(TrainingError):
    code = "chat_template_missing"
    default_hint = 'Use an instruction-tuned model, or task.format "prompt-completion", which needs no template.'


class ResultDiffers(TrainingError):
    """Another framework's weights do not compute in PyTorch what they computed there."""

    code = "result_differs"
    default_hint = 'Nothing was published. Use training.engine "trainer" or "pytorch" for this model.'


class EngineMissing(TrainingError):
    code = "engine_missing"
    default_hint = "Run `make install-tensorflow`, or set TUNESMITH_TENSORFLOW_PYTHON to an environment that has it."
    retryable = True


class ProcessDied(TrainingError):
    """A process that this one had started for training ended without a word."""

    code = "training_process_died"
    default_hint = (
        "It was killed from outside or crashed in native code. The next attempt goes on from the newest checkpoint."
    )
    retryable = True


class HubUnreachable(TrainingError):
    code = "hub_unreachable"
    default_hint = (
        "Check the worker's network and HF_ENDPOINT, or use a model of the server's models folder (`local:NAME`) "
        "and an uploaded dataset."
    )
    retryable = True


class DataNotFound(TrainingError):
    code = "data_not_found"
    default_hint = "Check the dataset's id, config, split and revision."


class DataNeedsCode(TrainingError):
    code = "data_needs_code"
    default_hint = (
        "Convert the dataset to Parquet once, on a machine of yours, and upload the files or push them to the hub; "
        'many such datasets have a converted branch: data.*.revision "refs/convert/parquet".'
    )


class ColumnMissing(TrainingError):
    """A role's column is not in the data."""

    code = "column_missing"
    default_hint = "Name the right column in data.columns."

    @classmethod
    def of(cls, split: str, role: str, column: str, present: Iterable[str]) -> "ColumnMissing":
        """Name the columns there are and the nearest one."""
        names = [name for name in present if not name.startswith("_")]
        near = get_close_matches(column, names, n=1)
        hint = f'Did you mean {{"{role}": "{near[0]}"}} in data.columns?' if near else None
        message = f"{split} has no column '{column}' for the role '{role}'; its columns are: {', '.join(names)}"
        return cls(message, hint, {"split": split, "column": column, "columns": names})


class BadRows(TrainingError):
    """Rows that cannot be used, and the spec says to fail on them."""

    code = "bad_rows"
    default_hint = 'Mend the rows, or leave such rows out with data.on_bad_row: "skip".'

    @classmethod
    def of(cls, problems: list[RowProblem], count: int) -> "BadRows":
        """Name the first twenty of `count` problems. `problems` must not be empty."""
        shown = problems[:SHOWN_PROBLEMS]
        more = f" (and {count - 1} more problems)" if count > 1 else ""
        details: dict[str, Any] = {
            "split": shown[0].split,
            "row": shown[0].row,
            "line": shown[0].line,
            "column": shown[0].column,
            "count": count,
            "problems": [asdict(problem) for problem in shown],
        }
        return cls(f"{shown[0]}{more}", details=details)


class NoRows(TrainingError):
    code = "no_rows"
    default_hint = "Give the split more rows, or check why its rows were left out."


class DataChanged(TrainingError):
    code = "data_changed"
    default_hint = "Submit a new job; pin data.train.revision so that a hub dataset cannot move."


class SingleClass(TrainingError):
    code = "single_class"
    default_hint = "Give train rows of at least two classes, or check data.columns.label."


class TooManyClasses(TrainingError):
    code = "too_many_classes"
    default_hint = "Check data.columns.label: it should hold a class, not an id or a measurement."


class ClassUnknown(TrainingError):
    code = "class_unknown"
    default_hint = "Name the classes as they stand in the label column."


class RowTooLong(TrainingError):
    code = "row_too_long"
    default_hint = "Raise tokenization.max_length, shorten the row, or set tokenization.truncation to true."


class PrecisionUnsupported(TrainingError):
    code = "precision_unsupported"
    default_hint = 'Use training.precision "auto".'


class GpuMissing(TrainingError):
    code = "gpu_missing"
    default_hint = 'Start a worker on a machine with a GPU, or ask for resources.gpus "auto".'
    retryable = True


class LossNotFinite(TrainingError):
    code = "loss_not_finite"
    default_hint = "Lower training.learning_rate, add warmup_steps, or use a wider precision than fp16."


class OutOfMemory(TrainingError):
    code = "out_of_memory"
    default_hint = (
        "Lower training.batch_size (and raise gradient_accumulation by as much), lower tokenization.max_length, "
        "or set training.gradient_checkpointing."
    )


class DiskFull(TrainingError):
    code = "disk_full"
    default_hint = (
        "Free some space on the disk that holds the worker's TUNESMITH_CACHE_DIR; a running job needs its model about "
        "`4 + checkpoints.keep` times over. The next attempt goes on from the newest checkpoint."
    )
    retryable = True


class CheckpointBroken(TrainingError):
    code = "checkpoint_broken"
    default_hint = "The folder is incomplete or was changed; use an earlier checkpoint."
    retryable = True


class InternalError(TrainingError):
    """A failure that we did not foresee. The message ends with the last lines of the traceback."""

    code = "internal_error"
    default_hint = "Retry the job; if it fails the same way again, report it with this message."
    retryable = True

    @classmethod
    def of(cls, error: BaseException) -> "InternalError":
        """Keep what a developer needs from an unknown exception."""
        lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
        tail = "\n".join(lines[-TRACEBACK_LINES:])
        return cls(f"{type(error).__name__}: {error}\n{tail}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Write " Did you mean 'x'?", or nothing where no known name is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the keys without a value, for records whose optional keys are absent."""
    return {key: value for key, value in values.items() if value is not None}
