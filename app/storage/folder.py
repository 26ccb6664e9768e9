"""Storage in a local folder: write, fsync, rename, fsync the parent."""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from app.disk import NO_ROOM
from app.storage.contract import Stored
from app.storage.errors import InvalidPath, ObjectNotFound, StorageError, StorageFull, StorageUnavailable
from app.storage.paths import TEMPORARY_PREFIX, check_path, check_prefix
from app.storage.streams import file_chunks, primed

CHUNK = 1 << 20
WRONG_SHAPE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST})


class FolderStorage:
    """Objects as files under one root folder, which is made if missing.

    Nothing under the root may be a symbolic link: such paths are refused, so none leads out of the root.
    """

    def __init__(self, root: Path) -> None:
        """Raises StorageUnavailable when the root cannot be made."""
        with _translated(str(root)):
            root.mkdir(parents=True, exist_ok=True)
            self.root = root.resolve(strict=True)

    def put(self, path: str, chunks: Iterable[bytes]) -> Stored:
        """Write and fsync a hidden file in the target's folder, rename it, and fsync the folder."""
        target = self._locate(check_path(path))
        temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}")
        with _translated(path):
            _make_folder(target.parent)
        try:
            stored = _write(temporary, chunks, path)
            with _translated(path):
                temporary.replace(target)
                _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return stored

    def put_file(self, path: str, source: Path) -> Stored:
        """Copy a local file in, as `put` does."""
        with source.open("rb") as file:
            return self.put(path, file_chunks(file, CHUNK))

    def read(self, path: str, start: int = 0, end: int | None = None, *, chunk: int | None = None) -> Iterator[bytes]:
        """Open the file now, yield its bytes in chunks of 1 MiB."""
        return primed(self._read(path, start, end, chunk or CHUNK))

    def local_file(self, path: str) -> Path:
        """The file itself."""
        target = self._locate(check_path(path))
        with _translated(path):
            if not target.is_file():
                raise _not_found(path)
            return target

    def signed_url(self, path: str, seconds: int) -> None:
        """A folder has no addresses."""

    def size(self, path: str) -> int:
        """Stat the file."""
        target = self._locate(check_path(path))
        with _translated(path):
            if not target.is_file():
                raise _not_found(path)
            return target.stat().st_size

    def list(self, prefix: str) -> Iterator[str]:
        """Walk the folder, less links and unfinished files."""
        top = self._locate(check_prefix(prefix))
        for folder, _, names in os.walk(top):
            for name in names:
                file = Path(folder, name)
                if not name.startswith(TEMPORARY_PREFIX) and not file.is_symlink():
                    yield file.relative_to(self.root).as_posix()

    def delete(self, path: str) -> None:
        """Unlink the file."""
        target = self._locate(check_path(path))
        with _translated(path):
            if target.is_file():
                target.unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        """Remove the folder and all in it."""
        folder = self._locate(check_path(check_prefix(prefix)))
        with _translated(prefix):
            if folder.is_dir():
                shutil.rmtree(folder)

    def sweep_temporary(self, older_than_s: float) -> int:
        """Remove unfinished files that nothing has written to for so long."""
        before = time.time() - older_than_s
        swept = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                file = Path(folder, name)
                # A put that ends at this moment removes its file.
                with suppress(FileNotFoundError):
                    if name.startswith(TEMPORARY_PREFIX) and file.stat().st_mtime < before:
                        file.unlink()
                        swept += 1
        return swept

    def check(self) -> None:
        """Write, sync and remove a small file."""
        probe = self.root / f"{TEMPORARY_PREFIX}check-{uuid4().hex}"
        try:
            _write(probe, [b"ready?"], "")
        except ObjectNotFound as error:
            raise StorageUnavailable(f"the storage folder {self.root} is gone") from error
        finally:
            with _translated(""):
                probe.unlink(missing_ok=True)

    def _read(self, path: str, start: int, end: int | None, most: int) -> Iterator[bytes]:
        target = self._locate(check_path(path))
        with _translated(path):
            if not target.is_file():
                raise _not_found(path)
            with target.open("rb") as file:
                yield b""
                file.seek(start)
                left = max(0, os.fstat(file.fileno()).st_size - start if end is None else end - start)
                while left and (chunk := file.read(min(most, left))):
                    left -= len(chunk)
                    yield chunk

    def _locate(self, path: str) -> Path:
        target = self.root / path
        if target.is_symlink() or os.path.realpath(target) != str(target):
            raise InvalidPath(f"the path {path!r} leads through a symbolic link")
        return target


def _write(file: Path, chunks: Iterable[bytes], path: str) -> Stored:
    digest, size = hashlib.sha256(), 0
    with _translated(path):
        # Closed below, by `with`; opened here so that only the store's own errors are translated.
        output = file.open("xb")
    with output:
        for chunk in chunks:
            with _translated(path):
                output.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        with _translated(path):
            output.flush()
            os.fsync(output.fileno())
    return Stored(size, digest.hexdigest())


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _translated(path: str) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise _translation(error, path) from error


def _translation(error: OSError, path: str) -> StorageError:
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return StorageFull(f"no room to write {path!r}: {reason}; free some space or raise the quota")
    if error.errno in WRONG_SHAPE:
        return InvalidPath(f"{path!r} clashes with what is stored already: {reason}")
    if error.errno == errno.ENOENT:
        return ObjectNotFound(f"{path!r} went away while it was used")
    return StorageUnavailable(f"the storage folder cannot be used: {reason} ({error.filename or path})")


def _not_found(path: str) -> ObjectNotFound:
    return ObjectNotFound(f"there is no object {path!r}")
