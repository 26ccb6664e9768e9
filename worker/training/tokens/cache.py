"""Tokenized splits kept for later jobs, in a folder that all training processes of a project on a machine share.

    KEY.arrow   the tokens
    KEY.json    what they are, how many rows, and the SHA-256 of the tokens; the entry is there once this is

KEY is the SHA-256 of the identity. Both files are renamed into place. A job has the tokens as a hard link, so that an
entry can go while a job reads it; where there are no links, as a copy.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from worker.training.tokens.eviction import drop, evict
from worker.training.tokens.identity import Identity


class EntryBroken(Exception):
    """An entry was damaged. It is gone now."""


@dataclass(frozen=True)
class TokenCache:
    """The folder of entries; the least recently used go when all together are larger than `limit_bytes`."""

    folder: Path
    limit_bytes: int

    def take(self, identity: Identity, target: Path) -> int | None:
        """Make `target` the tokens of this identity; returns how many of their rows were truncated.

        None where there is no such entry. Raises EntryBroken, or OSError where the entry cannot be read; then
        `target` is not to be used.
        """
        about, tokens = self._files(_key(identity))
        try:
            text = about.read_bytes()
            _link(tokens, target)
        except FileNotFoundError:
            return None
        truncated = _truncated_of_whole(text, target)
        if truncated is None:
            drop(about, tokens)
            raise EntryBroken
        with suppress(FileNotFoundError):
            # Evicted just now, by another process; what we have stays.
            os.utime(about)
        return truncated

    def keep(self, identity: Identity, source: Path, *, rows: int, truncated: int) -> bool:
        """Keep the tokens in `source`, and evict others to make room. False where they alone are above the limit.

        Raises OSError; then nothing is kept.
        """
        if source.stat().st_size > self.limit_bytes:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        about, tokens = self._files(_key(identity))
        partial = self.folder / f"{uuid4().hex}.partial"
        try:
            _link(source, partial)
            _sync(partial)
            facts = {"rows": rows, "truncated": truncated, "sha256": _sha256(partial), "identity": identity}
            partial.replace(tokens)
            partial.unlink(missing_ok=True)
            partial.write_text(json.dumps(facts, indent=1))
            _sync(partial)
            partial.replace(about)
        finally:
            partial.unlink(missing_ok=True)
        evict(self.folder, self.limit_bytes)
        return True

    def _files(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.json", self.folder / f"{key}.arrow"


def open_cache(folder: Path | None, limit_bytes: int) -> TokenCache | None:
    """The cache in `folder`, or None without a folder or room in it."""
    return TokenCache(folder, limit_bytes) if folder is not None and limit_bytes > 0 else None


def _key(identity: Identity) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:
        # Another file system, or one without links; whatever else is wrong, the copy says.
        shutil.copyfile(source, target)


def _truncated_of_whole(text: bytes, tokens: Path) -> int | None:
    try:
        about = cast("dict[str, Any]", json.loads(text))
        # The file is one with that of every job that used it: a job that wrote into its own would be found out here.
        return int(about["truncated"]) if about["sha256"] == _sha256(tokens) else None
    except (ValueError, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
