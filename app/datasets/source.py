"""A text file as a checked stream of bytes: decompressed, limited in size, and free of NUL bytes."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from app.datasets.errors import UnusableFile
from app.datasets.limits import UploadLimits

if TYPE_CHECKING:
    from collections.abc import Generator

    from _typeshed import WriteableBuffer

BLOCK = 1 << 20


class Source:
    """A file that can be opened several times, gzipped or not."""

    def __init__(self, path: Path, *, compressed: bool, limits: UploadLimits) -> None:
        self.path = path
        self.compressed = compressed
        self.limits = limits
        self.unpacked = 0
        """The number of bytes read so far, after decompression."""

    @contextmanager
    def open(self, *, long_lines: bool = False) -> "Generator[Watched, None, None]":
        """Open at the first byte after a byte order mark.

        Reading raises UnusableFile: code `too_large`, `too_long` (unless `long_lines`), `nul_byte` or `damaged`.
        """
        with self.path.open("rb") as raw:
            inner = cast("BinaryIO", gzip.GzipFile(fileobj=raw, mode="rb")) if self.compressed else raw
            watched = Watched(inner, self.limits.unpacked_bytes, None if long_lines else self.limits.record_bytes)
            watched.skip_mark()
            try:
                yield watched
            finally:
                self.unpacked = max(self.unpacked, watched.offset)

    def find_bad_utf8(self) -> UnusableFile:
        """Find the first byte that is not UTF-8 and return the error that names it."""
        line, offset = 1, 0
        with self.open(long_lines=True) as watched:
            decoder = codecs.getincrementaldecoder("utf-8")()
            start = watched.offset
            while True:
                block = watched.read(BLOCK)
                pending = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    bad = error.object[error.start]
                    line += error.object[: error.start].count(b"\n")
                    return bad_utf8(line, start + offset - pending + error.start, bad)
                if not block:
                    return UnusableFile("the file is not UTF-8", "encoding")
                line += text.count("\n")
                offset += len(block)


class Watched(io.RawIOBase):
    """A binary stream. `offset` counts the bytes that were read, from the start of the decompressed file."""

    def __init__(self, inner: BinaryIO, most: int, longest: int | None) -> None:
        super().__init__()
        self._inner = inner
        self._most = most
        self._longest = longest
        self._unbroken = 0
        self._head = b""
        self.lines = 0
        self.offset = 0

    def skip_mark(self) -> None:
        """Skip a UTF-8 byte order mark."""
        head = self._pull(len(codecs.BOM_UTF8))
        if head == codecs.BOM_UTF8:
            self.offset = len(head)
        else:
            self._head = head

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Return the next bytes after checking them."""
        view = memoryview(buffer)
        block = self._head or self._pull(len(view))
        self._head = b""
        self._check(block)
        view[: len(block)] = block
        return len(block)

    def lines_of_text(self, errors: str = "strict") -> Iterator[str]:
        """Iterate over lines, each with its own ending: LF, CR LF or CR. `errors` is what to do about bad UTF-8."""
        return io.TextIOWrapper(io.BufferedReader(self, BLOCK), encoding="utf-8", errors=errors, newline="")

    def _pull(self, size: int) -> bytes:
        try:
            return self._inner.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UnusableFile(
                f"the gzip data is damaged or truncated after {self.offset:,} unpacked bytes: {error}",
                "damaged",
                hint="pack or upload it again",
            ) from error

    def _check(self, block: bytes) -> None:
        nul = block.find(b"\0")
        if nul >= 0:
            line = self.lines + block.count(b"\n", 0, nul) + 1
            raise UnusableFile(
                f"line {line} contains a NUL byte (at offset {self.offset + nul:,})",
                "nul_byte",
                line=line,
                hint="text must be UTF-8; a file saved as UTF-16 or a binary file contains NUL bytes",
            )
        newest = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self._unbroken = len(block) - newest - 1 if newest >= 0 else self._unbroken + len(block)
        self.lines += block.count(b"\n")
        self.offset += len(block)
        if self._longest is not None and self._unbroken > self._longest:
            raise too_long(self.lines + 1, self._longest)
        if self.offset > self._most:
            raise UnusableFile(
                f"the file unpacks to more than {self._most:,} bytes",
                "too_large",
                hint="split it into several datasets",
            )


def too_long(line: int, limit: int) -> UnusableFile:
    """The error for a line or record that is longer than the limit in bytes."""
    return UnusableFile(f"line {line} is longer than {limit:,} bytes", "too_long", line=line)


def is_bad(text: str) -> bool:
    """Whether text that was read with `errors="surrogateescape"` has bytes that are not UTF-8."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def bad_utf8(line: int, offset: int, byte: int, row: int | None = None, column: str | None = None) -> UnusableFile:
    """The error for a byte that is not UTF-8; `offset` counts from 0."""
    guess = bytes([byte]).decode("cp1252", errors="replace")
    hint = "save the file as UTF-8"
    if guess.isalpha():
        hint += f"; if it was saved as Windows-1252 or Latin-1, the byte is '{guess}'"
    message = f"line {line} is not UTF-8: byte 0x{byte:02x} at offset {offset:,}"
    return UnusableFile(message, "encoding", row=row, line=line, column=column, hint=hint)
