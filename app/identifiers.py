"""Ids that sort by the time they were made: a prefix that says what it is, and a lower-case ULID."""

from ulid import ULID


def new_id(prefix: str) -> str:
    """A fresh id such as `job_01k…` (https://github.com/ulid/spec)."""
    return f"{prefix}_{str(ULID()).lower()}"
