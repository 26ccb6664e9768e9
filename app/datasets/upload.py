"""Receives a multipart upload chunk by chunk: bytes are counted as they arrive and go straight to a file."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from app.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "file"
FILENAME_LIMIT = 255
WRITE_BYTES = 1024**2
AROUND_BYTES = 64 * 1024
"""What boundaries and part headers may take on top of the file itself."""

EXAMPLE = "send multipart/form-data with one part named 'file', such as curl -F file=@reviews.csv"


class Received:
    """A file that has arrived whole: its name, size in bytes and sha256."""

    def __init__(self, filename: str, size: int, digest: str) -> None:
        self.filename, self.size, self.sha256 = filename, size, digest


async def receive(
    chunks: AsyncIterator[bytes], content_type: str, declared_length: int | None, target: Path, limit: int
) -> Received:
    """Write the part named `file` to `target`.

    Raises TooLarge as soon as more than `limit` bytes are announced or have come, InvalidRequest for
    anything that is not one such part, OSError when the disk is full. The caller removes `target` when this raises.
    """
    too_large = TooLarge(f"the upload is larger than the limit of {limit} bytes; split it, or gzip it", param=FIELD)
    if declared_length is not None and declared_length > limit + AROUND_BYTES:
        raise too_large
    part = _Part()
    parser = _parser(content_type, part)
    digest, size, come = hashlib.sha256(), 0, 0
    with target.open("wb") as file:
        async for chunk in chunks:
            come += len(chunk)
            # What follows the last boundary means nothing, but it counts.
            if not part.is_whole:
                _feed(parser, chunk)
            size += await _write(part, file, digest, at_least=WRITE_BYTES)
            if size + len(part.data) > limit or come > limit + AROUND_BYTES:
                raise too_large
        size += await _write(part, file, digest, at_least=1)
    if not part.is_whole:
        raise _broken(f"the upload ends before its last boundary; {EXAMPLE}")
    return Received(part.filename, size, digest.hexdigest())


def _parser(content_type: str, part: "_Part") -> MultipartParser:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest(EXAMPLE, param=FIELD, code="not_multipart")
    try:
        return MultipartParser(options[b"boundary"], part.callbacks())
    except FormParserError as error:
        raise _broken(f"the multipart body cannot be read: {error}") from None


def _feed(parser: MultipartParser, chunk: bytes) -> None:
    try:
        parser.write(chunk)
    except FormParserError as error:
        raise _broken(f"the multipart body is broken: {error}") from None


def _broken(message: str) -> InvalidRequest:
    return InvalidRequest(message, param=FIELD, code="invalid_multipart")


async def _write(part: "_Part", file: IO[bytes], digest: "hashlib._Hash", at_least: int) -> int:  # pyright: ignore[reportPrivateUsage]
    if len(part.data) < at_least:
        return 0
    data = bytes(part.data)
    part.data.clear()

    def write() -> None:
        file.write(data)
        digest.update(data)

    await run_in_threadpool(write)
    return len(data)


class _Part:
    """Collects what the parser finds of the one file part."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.filename = ""
        self.is_whole = False
        self._seen = False
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if self._seen:
            raise _broken(f"there is more than one part; {EXAMPLE}")
        self._seen = True

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if options.get(b"name") != FIELD.encode() or not filename:
            raise _broken(EXAMPLE)
        # Only the last segment, as a name to show and to read the format from; never as a path.
        name = filename.replace("\\", "/").rsplit("/", 1)[-1]
        if not name.isprintable() or not 1 <= len(name) <= FILENAME_LIMIT:
            raise InvalidRequest(
                f"the file name must have 1 to {FILENAME_LIMIT} printable characters",
                param=FIELD,
                code="invalid_filename",
            )
        self.filename = name

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.data += data[start:end]

    def _end(self) -> None:
        self.is_whole = True
