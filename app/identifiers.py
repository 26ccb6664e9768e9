"""Ids that sort by creation time: a prefix for the kind of object, and a lower-case ULID."""

from ulid import ULID


def new_id(prefix: str) -> str:
    """A fresh id such as `job_01k…` (https://github.com/ulid/spec)."""
    return f"{prefix}_{str(ULID()).lower()}"
