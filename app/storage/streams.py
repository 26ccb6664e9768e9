"""Byte streams, as every kind of store needs them."""

from collections.abc import Iterator
from typing import BinaryIO


def primed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Run a generator up to its first, empty chunk, so that what it opens or refuses happens now."""
    next(chunks)
    return chunks


def file_chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield what is left of an open file in chunks of `size` bytes."""
    while chunk := file.read(size):
        yield chunk
