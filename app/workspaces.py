"""Scratch folders that are removed at the end of their block, or at the next start if their owner was killed."""

import fcntl
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def workspace(parent: Path, prefix: str = "") -> Generator[Path]:
    """A new folder under `parent`, removed at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        # The lock shows that the folder is in use. The kernel releases it when a process is killed.
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_abandoned(parent: Path) -> int:
    """Remove the folders whose owner is gone; returns their number."""
    removed = 0
    for lock in parent.glob(f"*/{LOCK}"):
        try:
            with lock.open("r+") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
                removed += 1
        except (BlockingIOError, FileNotFoundError):
            # The folder is in use, or its owner has just finished.
            continue
    return removed
