"""The interface of every store."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Stored:
    """What a put wrote: `size` in bytes, and the lower-case hex `sha256` of the content."""

    size: int
    sha256: str


class Storage(Protocol):
    """Objects by relative POSIX path, such as `jobs/01h…/a1/model.safetensors`.

    A prefix is a folder: `a/b` holds `a/b/c`, but neither `a/b` itself nor `a/bc`; "" holds everything.
    Every method raises InvalidPath for a path that is malformed, StorageUnavailable when the store does not
    answer, and StorageFull when it has no room. Methods may be called from any thread.
    """

    def put(self, path: str, chunks: Iterable[bytes]) -> Stored:
        """Write an object, replacing any of that path. It is visible whole, or not at all.

        What `chunks` raises passes through, and leaves nothing behind.
        """
        ...

    def put_file(self, path: str, source: Path) -> Stored:
        """Write an object from a local file. Raises FileNotFoundError without the file."""
        ...

    def read(self, path: str, start: int = 0, end: int | None = None, *, chunk: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` up to, not including, `end`, or up to the end of the object.

        With `chunk`, at most so many bytes are in memory at a time.

        Raises ObjectNotFound when called, before a chunk is asked for.
        """
        ...

    def local_file(self, path: str) -> Path | None:
        """The file of an object, if the store is a folder of this machine. Raises ObjectNotFound."""
        ...

    def signed_url(self, path: str, seconds: int) -> str | None:
        """An address from which anyone can download an object for a time, or None if the store has no addresses."""
        ...

    def size(self, path: str) -> int:
        """Return an object's size in bytes. Raises ObjectNotFound."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the paths of the objects under a prefix, in no particular order."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; one that is missing is fine."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object under a prefix, which must not be empty."""
        ...

    def sweep_temporary(self, older_than_s: float) -> int:
        """Remove what killed puts left behind longer ago than that; return how many."""
        ...

    def check(self) -> None:
        """Raise StorageUnavailable or StorageFull, within seconds, unless the store can be used."""
        ...
