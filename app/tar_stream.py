"""A tar file that is built while it is sent. The same files always give the same bytes."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)

Part = TypeVar("Part")


def tar_length(files: Sequence[tuple[str, int]]) -> int:
    """The number of bytes that `tar_parts` yields for these (name, size) pairs."""
    return sum(len(_header(name, size)) + size + _padding(size) for name, size in files) + len(END)


def tar_parts(files: Sequence[tuple[str, int]], content: Callable[[str, int], Part]) -> Iterator[bytes | Part]:
    """Yield the parts of a POSIX tar of these (name, size) pairs. `content(name, size)` is the part for a file's bytes."""
    for name, size in files:
        yield _header(name, size)
        if size:
            yield content(name, size)
        yield b"\0" * _padding(size)
    yield END


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> int:
    return -size % BLOCK
