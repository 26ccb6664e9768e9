"""Everything that can go wrong in training: one exception for each code of the catalogue (`app.failures`).

`Stopped` is no failure: it ends a run that was asked to stop.
"""

import errno
import re
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any, ClassVar

from app.failures import Failure, FailureCode
from app.specs.rows import RowProblem

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when a disk, a quota or a limit has no room."""
SHOWN_PROBLEMS = 20
TRACEBACK_LINES = 12
PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":,]+/)+([^\s/'\":,]+)")
"""An absolute path of at least two names, but not that of a URL."""


class Stopped(Exception):
    """The stop event was set; unwinds to `run`, which reports `stopped`."""


class TrainingError(Exception):
    """A run ended without a model; `failure` says why and what to do."""

    code: ClassVar[FailureCode]

    def __init__(self, message: str, hint: str | None = None, details: Any = None) -> None:
        super().__init__(message)
        self.failure = Failure.of(self.code, message, hint, details=details)


class ModelNotFound(TrainingError):
    code = FailureCode.MODEL_NOT_FOUND


class ModelRefused(TrainingError):
    code = FailureCode.MODEL_REFUSED


class ModelConfigInvalid(TrainingError):
    code = FailureCode.MODEL_CONFIG_INVALID


class ArchitectureUnsupported(TrainingError):
    code = FailureCode.ARCHITECTURE_UNSUPPORTED


class ChatTemplateMissing(TrainingError):
    code = FailureCode.CHAT_TEMPLATE_MISSING


class ResultDiffers(TrainingError):
    """Another framework's weights do not compute in PyTorch what they computed there."""

    code = FailureCode.RESULT_DIFFERS


class EngineMissing(TrainingError):
    code = FailureCode.ENGINE_MISSING


class ProcessDied(TrainingError):
    """A process that this one had started for training ended without a word."""

    code = FailureCode.TRAINING_PROCESS_DIED


class HubUnreachable(TrainingError):
    code = FailureCode.HUB_UNREACHABLE


class DataNotFound(TrainingError):
    code = FailureCode.DATA_NOT_FOUND


class DataNeedsCode(TrainingError):
    code = FailureCode.DATA_NEEDS_CODE


class ColumnMissing(TrainingError):
    """A role's column is not in the data."""

    code = FailureCode.COLUMN_MISSING

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

    code = FailureCode.BAD_ROWS

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
    code = FailureCode.NO_ROWS


class DataChanged(TrainingError):
    code = FailureCode.DATA_CHANGED


class SingleClass(TrainingError):
    code = FailureCode.SINGLE_CLASS


class TooManyClasses(TrainingError):
    code = FailureCode.TOO_MANY_CLASSES


class MetricUnavailable(TrainingError):
    """The evaluated rows do not allow a metric that the spec names."""

    code = FailureCode.METRIC_UNAVAILABLE


class ClassUnknown(TrainingError):
    code = FailureCode.CLASS_UNKNOWN


class RowTooLong(TrainingError):
    code = FailureCode.ROW_TOO_LONG


class PrecisionUnsupported(TrainingError):
    code = FailureCode.PRECISION_UNSUPPORTED


class GpuMissing(TrainingError):
    code = FailureCode.GPU_MISSING


class LossNotFinite(TrainingError):
    code = FailureCode.LOSS_NOT_FINITE


class OutOfMemory(TrainingError):
    code = FailureCode.OUT_OF_MEMORY


class DiskFull(TrainingError):
    code = FailureCode.DISK_FULL


class CheckpointBroken(TrainingError):
    code = FailureCode.CHECKPOINT_BROKEN


class InternalError(TrainingError):
    """A failure that we did not foresee. The message ends with the last lines of the traceback."""

    code = FailureCode.INTERNAL_ERROR

    @classmethod
    def of(cls, error: BaseException) -> "InternalError":
        """Keep what a developer needs from an unknown exception."""
        lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
        tail = "\n".join(lines[-TRACEBACK_LINES:])
        return cls(without_paths(f"{type(error).__name__}: {error}\n{tail}"))


def nearest(name: str, known: Iterable[str]) -> str:
    """Write " Did you mean 'x'?", or nothing where no known name is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def without_paths(text: str) -> str:
    """The text with the last name of each absolute path only, for people who need not know the folders of the server."""
    return PATH.sub(r"…/\1", text)
