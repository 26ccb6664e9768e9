"""Receives a multipart upload chunk by chunk: bytes are counted as they arrive and go straight to files."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from app.datasets.form import FILE_FIELD, FilePart, Form
from app.errors import TooLarge

WRITE_BYTES = 1024**2
AROUND_BYTES = 256 * 1024
"""How many bytes boundaries, part headers and the name may take in addition to the files."""


@dataclass(frozen=True)
class ReceivedFile:
    """A complete file: its name, its path, its size in bytes and its sha256."""

    filename: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Received:
    """A complete upload of one file or more. `sha256` is that of all files, one after the other."""

    name: str | None
    files: list[ReceivedFile]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


async def receive(
    chunks: AsyncIterator[bytes], content_type: str, declared_length: int | None, folder: Path, limit: int
) -> Received:
    """Write each part named `file` to a file of its own in `folder`.

    Raises TooLarge as soon as more than `limit` bytes are announced or have come, InvalidRequest for
    anything that is not such a form, OSError when the disk is full. The caller removes `folder` when this raises.
    """
    too_large = TooLarge(
        f"the upload is larger than the limit of {limit} bytes; split it, or gzip it", param=FILE_FIELD
    )
    if declared_length is not None and declared_length > limit + AROUND_BYTES:
        raise too_large
    form = Form(content_type)
    written = _Written(folder)
    come = 0
    async for chunk in chunks:
        come += len(chunk)
        form.feed(chunk)
        waiting = sum(len(part.data) for part in form.files)
        if written.size + waiting > limit or come > limit + AROUND_BYTES:
            raise too_large
        if waiting >= WRITE_BYTES:
            await run_in_threadpool(written.add, form.files)
    form.require_whole()
    name = form.name
    await run_in_threadpool(written.add, form.files)
    return Received(name, written.files(), written.sha256())


class _Written:
    """The files so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[_File] = []
        self._all: hashlib._Hash | None = None  # pyright: ignore[reportPrivateUsage]
        self.size = 0

    def add(self, parts: list[FilePart]) -> None:
        """Append the bytes received of each part to its file. Only the last part can be incomplete."""
        for part in parts[len(self._files) :]:
            self._files.append(_File(part.filename, self._folder / f"upload-{len(self._files) + 1}"))
        for number, (file, part) in enumerate(zip(self._files, parts, strict=True)):
            if part.data or not file.size:
                # No file is hashed twice: the hash of all files continues from that of the first.
                if number:
                    self._all = self._all or self._files[0].digest.copy()
                    self._all.update(part.data)
                file.append(part.data)
                self.size += len(part.data)
                part.data.clear()

    def files(self) -> list[ReceivedFile]:
        return [ReceivedFile(file.filename, file.path, file.size, file.digest.hexdigest()) for file in self._files]

    def sha256(self) -> str:
        return (self._all or self._files[0].digest).hexdigest()


class _File:
    def __init__(self, filename: str, path: Path) -> None:
        self.filename, self.path = filename, path
        self.digest, self.size = hashlib.sha256(), 0

    def append(self, data: bytearray) -> None:
        with self.path.open("ab") as file:
            file.write(data)
        self.digest.update(data)
        self.size += len(data)
