"""Eviction from the token cache: the least recently used entries go. The worker also evicts, so this module imports little."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LEFTOVER_SECONDS = 3600
"""A file that is no whole entry may be one that is being written, up to this age."""


def evict(folder: Path, limit_bytes: int) -> None:
    """Remove the least recently used entries in `folder` and its subfolders until all others have room in the limit."""
    _sweep(folder)
    entries = sorted(_entries(folder))
    total = sum(size for _, size, _ in entries)
    for _, size, about in entries:
        if total <= limit_bytes:
            return
        drop(about, about.with_suffix(".arrow"))
        total -= size


def drop(about: Path, tokens: Path) -> None:
    """Remove one entry."""
    # In this order: without the first file, the second is not an entry.
    about.unlink(missing_ok=True)
    tokens.unlink(missing_ok=True)


def _entries(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Last use in nanoseconds, bytes, and the file that describes it."""
    for about in folder.rglob("*.json"):
        # Another process may take it away just now.
        with suppress(FileNotFoundError):
            found, tokens = about.stat(), about.with_suffix(".arrow").stat()
            yield found.st_mtime_ns, found.st_size + tokens.st_size, about


def _sweep(folder: Path) -> None:
    oldest = time.time() - LEFTOVER_SECONDS
    for path in [path for path in folder.rglob("*") if path.suffix in (".json", ".arrow", ".partial")]:
        if all(path.with_suffix(suffix).exists() for suffix in (".json", ".arrow")):
            continue
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
