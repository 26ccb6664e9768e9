"""Local copies of the Parquet files of datasets, for readers that must seek.

The least recently used copies are evicted first.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from app.datasets.tables import Dataset
from app.storage import Storage

RECENTLY_USED_SECONDS = 3600
"""A copy used within the hour is never evicted: a job may be reading it."""


class LocalCopies:
    """A folder of copies. Copies that were not used within the last hour take at most `limit_bytes`."""

    def __init__(self, storage: Storage, folder: Path, limit_bytes: int) -> None:
        self._storage, self._folder, self._limit_bytes = storage, folder / "datasets", limit_bytes

    def parquet(self, dataset: Dataset) -> Path:
        """The local Parquet file of a dataset, downloaded if it is missing. Raises StorageError."""
        path = self._path(dataset.id)
        with suppress(FileNotFoundError):
            os.utime(path)
            return path
        self._folder.mkdir(parents=True, exist_ok=True)
        self._evict()
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".partial")
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in self._storage.read(dataset.parquet_path):
                    file.write(chunk)
            # Two processes may fetch at once; both copies are the same bytes.
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def forget(self, dataset_id: str) -> None:
        """Remove the copy of a dataset, if there is one."""
        self._path(dataset_id).unlink(missing_ok=True)

    def _path(self, dataset_id: str) -> Path:
        return self._folder / f"{dataset_id}.parquet"

    def _evict(self) -> None:
        aged = time.time() - RECENTLY_USED_SECONDS
        old = sorted((found.st_mtime, found.st_size, entry) for entry, found in self._entries())
        total = sum(size for _, size, _ in old)
        for used_at, size, entry in old:
            if total <= self._limit_bytes or used_at > aged:
                return
            entry.unlink(missing_ok=True)
            total -= size

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for entry in self._folder.iterdir():
            # Another process may remove it at this moment.
            with suppress(FileNotFoundError):
                yield entry, entry.stat()
