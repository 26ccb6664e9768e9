"""A tar file that is built while it is sent. The same files always give the same bytes."""

import tarfile
from collections.abc import Callable, Iterator, Sequence

BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)


def tar_length(files: Sequence[tuple[str, int]]) -> int:
    """The number of bytes that `tar_stream` yields for these (name, size) pairs."""
    return sum(len(_header(name, size)) + size + _padding(size) for name, size in files) + len(END)


def tar_stream(files: Sequence[tuple[str, int]], read: Callable[[str], Iterator[bytes]]) -> Iterator[bytes]:
    """Yield a POSIX tar of these (name, size), each read by `read(name)`."""
    for name, size in files:
        yield _header(name, size)
        yield from read(name)
        yield b"\0" * _padding(size)
    yield END


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> int:
    return -size % BLOCK
