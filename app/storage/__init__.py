"""Where datasets, checkpoints and models are stored: one interface, selected by URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.storage.buckets import BucketStorage
from app.storage.contract import Storage, Stored
from app.storage.errors import InvalidPath, ObjectNotFound, StorageError, StorageFull, StorageUnavailable
from app.storage.folder import FolderStorage

__all__ = [
    "InvalidPath",
    "ObjectNotFound",
    "Storage",
    "StorageError",
    "StorageFull",
    "StorageUnavailable",
    "Stored",
    "open_storage",
]

BUCKET_SCHEMES = ("s3", "gs", "az")


def open_storage(url: str) -> Storage:
    """Open the store of a URL: file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.

    Buckets take credentials and endpoint from the provider's environment variables (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, …) at this moment; nothing is requested yet.
    Raises StorageError for a URL that cannot be used, StorageUnavailable when a folder cannot be made.
    """
    parts = urlsplit(url)
    if parts.scheme in BUCKET_SCHEMES:
        return BucketStorage(url)
    if parts.scheme != "file":
        known = ", ".join(f"{scheme}://" for scheme in ("file", *BUCKET_SCHEMES))
        raise StorageError(f"the storage URL {url!r} has no known scheme; known are {known}")
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise StorageError(f"the storage URL {url!r} must name an absolute folder with three slashes: file:///folder")
    return FolderStorage(Path(unquote(parts.path)))
