"""Tells from an exception whether memory or disk ran out, in the many words that libraries have for it."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from worker.training.errors import NO_ROOM, DiskFull, OutOfMemory, TrainingError

MEMORY_SIGNS = ("out of memory", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")
DISK_SIGNS = ("No space left on device", "Disk quota exceeded", "File too large")
FULL_BELOW_BYTES = 1024**2


def shortage_of(error: BaseException, folder: Path) -> TrainingError | None:
    """The error of a run that wanted more memory, or more room in `folder`, than there was; None for any other."""
    causes = list(_chain(error))
    if any(_is_memory(cause) for cause in causes):
        return OutOfMemory(f"memory ran out: {error}", details={"peak_bytes": _peak_bytes()})
    if any(_is_disk(cause, folder) for cause in causes):
        return DiskFull(f"the disk of {folder} has no room left: {error}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in MEMORY_SIGNS)


def _is_disk(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    text = str(error)
    # torch's writer does not say why a write failed.
    full = "PytorchStreamWriter" in text and shutil.disk_usage(folder).free < FULL_BELOW_BYTES
    return full or any(sign in text for sign in DISK_SIGNS)


def _peak_bytes() -> int:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
