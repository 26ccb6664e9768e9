"""Storage in a bucket: S3 and compatible stores, Google Cloud Storage, Azure Blob Storage.

Credentials, region and endpoint come from the provider's usual environment variables, read once.
"""

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import from_url

from app.storage.contract import Stored
from app.storage.errors import InvalidPath, ObjectNotFound, StorageError, StorageUnavailable
from app.storage.paths import check_path, check_prefix
from app.storage.streams import file_chunks, primed

if TYPE_CHECKING:
    # These names exist in obstore's type stubs alone.
    from obstore import GetOptions, SignCapableStore
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

MIB = 1 << 20
PART = 5 * MIB
"""The size of a part in bytes:

the minimum of S3. A part must be sent within READ_TIMEOUT, so small parts suit slow links.
"""

PARTS_AT_ONCE = 4
PARTS_LIMIT = 9_000
READ_CHUNK = 8 * MIB
"""Bytes of one request, unless the reader asks for smaller chunks."""
PAGE = 1_000
READ_TIMEOUT = "15s"
CLIENT: "ClientConfig" = {"connect_timeout": "3s", "read_timeout": READ_TIMEOUT, "timeout": "120s"}
RETRIES: "RetryConfig" = {
    "max_retries": 4,
    # A request that ran into READ_TIMEOUT exceeds this and is not retried, so an unreachable store fails after one try.
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
CHECK_CLIENT: "ClientConfig" = {"connect_timeout": "2s", "timeout": "3s"}
CHECK_RETRIES: "RetryConfig" = {"max_retries": 1, "retry_timeout": timedelta(seconds=1)}
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


class BucketStorage:
    """Objects in a bucket, under the URL's path if it has one."""

    def __init__(self, url: str) -> None:
        """Make no request. Raises StorageError for a URL or settings that cannot be used."""
        self._url = url
        self._store = _connect(url, CLIENT, RETRIES)
        self._quick = _connect(url, CHECK_CLIENT, CHECK_RETRIES)

    def put(self, path: str, chunks: Iterable[bytes]) -> Stored:
        """Send small objects in one request, others in parts, which are aborted if `chunks` fails."""
        return self._put(path, chunks, PART)

    def put_file(self, path: str, source: Path) -> Stored:
        """Send a local file, in parts large enough for its size."""
        with source.open("rb") as file:
            return self._put(path, file_chunks(file, MIB), max(PART, source.stat().st_size // PARTS_LIMIT))

    def read(self, path: str, start: int = 0, end: int | None = None, *, chunk: int | None = None) -> Iterator[bytes]:
        """Look the object up now, yield its bytes range by range, each with its own time limit and retries.

        Raises StorageUnavailable from the iterator when the object is replaced meanwhile.
        """
        return primed(self._read(path, start, end, chunk or READ_CHUNK))

    def local_file(self, path: str) -> None:
        """A bucket is on no disk of this machine."""

    def signed_url(self, path: str, seconds: int) -> str:
        """Presign a GET. No request is made, so the object may be missing."""
        with _translated(path):
            # The other stores of obstore are not those of `from_url` with the schemes that we accept.
            store = cast("SignCapableStore", self._store)
            return obstore.sign(store, "GET", check_path(path), timedelta(seconds=seconds))

    def size(self, path: str) -> int:
        """Ask for the object's head."""
        with _translated(path):
            return obstore.head(self._store, check_path(path))["size"]

    def list(self, prefix: str) -> Iterator[str]:
        """Page through the bucket's listing."""
        with _translated(prefix):
            for page in _pages(self._store, check_prefix(prefix)):
                yield from page

    def delete(self, path: str) -> None:
        """Ask for the removal of the object."""
        with _translated(path), _missing_is_fine():
            obstore.delete(self._store, check_path(path))

    def delete_prefix(self, prefix: str) -> None:
        """Remove page by page."""
        folder = check_path(check_prefix(prefix))
        with _translated(prefix):
            for page in _pages(self._store, folder):
                with _missing_is_fine():
                    obstore.delete(self._store, page)

    def sweep_temporary(self, older_than_s: float) -> int:
        """Do nothing: a bucket shows no unfinished objects; its lifecycle rule ends stale multipart uploads."""
        return 0

    def check(self) -> None:
        """List one page of the bucket, within 3 s."""
        try:
            with _translated(""):
                next(_pages(self._quick, "", 1), None)
        except ObjectNotFound as error:
            raise StorageUnavailable(f"there is no bucket for {self._url}") from error

    def _put(self, path: str, chunks: Iterable[bytes], part: int) -> Stored:
        check_path(path)
        measured = _Measured(chunks)
        try:
            first = _take(measured, part)
            if measured.ended:
                obstore.put(self._store, path, first, use_multipart=False)
            else:
                parts = chain([first], measured)
                obstore.put(self._store, path, parts, chunk_size=part, max_concurrency=PARTS_AT_ONCE)
        except (BaseError, OSError, ValueError) as error:
            if error is measured.failure:
                raise
            raise StorageUnavailable(f"{self._url} does not take {path!r}: {_reason(error)}") from error
        return Stored(measured.size, measured.digest.hexdigest())

    def _read(self, path: str, start: int, end: int | None, most: int) -> Iterator[bytes]:
        with _translated(path):
            meta = obstore.head(self._store, check_path(path))
            yield b""
            stop = meta["size"] if end is None else min(end, meta["size"])
            for at in range(start, stop, most):
                options: GetOptions = {
                    "range": (at, min(at + most, stop)),
                    "if_match": meta["e_tag"],
                }
                yield bytes(obstore.get(self._store, path, options=options).bytes())


class _Measured(Iterator[bytes]):
    """Chunks that are being sent.

    They are counted and hashed, and errors of their source are kept apart from errors of the store.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.digest = hashlib.sha256()
        self.size = 0
        self.ended = False
        self.failure: Exception | None = None

    def __next__(self) -> bytes:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self.ended = True
            raise
        except Exception as error:
            self.failure = error
            raise
        self.digest.update(chunk)
        self.size += len(chunk)
        return chunk


def _take(chunks: Iterator[bytes], size: int) -> bytes:
    taken = bytearray()
    for chunk in chunks:
        taken += chunk
        if len(taken) > size:
            break
    return bytes(taken)


def _pages(store: "ObjectStore", prefix: str, size: int = PAGE) -> Iterator[Sequence[str]]:
    pages = obstore.list(store, prefix or None, chunk_size=size)  # pyright: ignore[reportUnknownMemberType] - its Arrow overload needs a package we lack
    for page in pages:
        yield [meta["path"] for meta in page]


def _connect(url: str, client: "ClientConfig", retries: "RetryConfig") -> "ObjectStore":
    # Plain HTTP is used only if the endpoint's URL says so, such as for a store on the same machine.
    plain = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
    try:
        return from_url(url, client_options={**client, "allow_http": plain}, retry_config=retries)
    except (BaseError, ValueError) as error:
        raise StorageError(f"the storage URL {url!r} cannot be used: {_reason(error)}") from error


@contextmanager
def _translated(path: str) -> Generator[None, None, None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFound(f"there is no object {path!r}") from error
    except PreconditionError as error:
        raise StorageUnavailable(f"{path!r} was replaced while it was read; read it again") from error
    except ValueError as error:
        raise InvalidPath(f"the path {path!r} is refused: {_reason(error)}") from error
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"the store gave an unexpected answer: {_reason(error)}") from error


@contextmanager
def _missing_is_fine() -> Generator[None, None, None]:
    try:
        yield
    except FileNotFoundError:
        return


def _reason(error: Exception) -> str:
    # What follows is a dump of the client's own structures.
    return " ".join(str(error).partition("Debug source:")[0].split())[:500]
