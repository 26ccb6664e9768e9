"""What can go wrong with storage.

StorageError
├── InvalidPath         the caller's path; nothing was touched
├── ObjectNotFound      no object of that path
├── StorageUnavailable  the store does not answer, or refuses us: try again later
└── StorageFull         the disk or quota has no room
"""


class StorageError(Exception):
    """Storage did not do what was asked. The root of this module's tree."""


class InvalidPath(StorageError):
    """The path is malformed or would leave the store's root."""


class ObjectNotFound(StorageError):
    """There is no object of that path."""


class StorageUnavailable(StorageError):
    """The store cannot be reached or refuses us: network, credentials, bucket or permissions."""


class StorageFull(StorageError):
    """The store has no room left."""
