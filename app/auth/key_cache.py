"""Keys that were found valid a moment ago, so that a client that polls costs no read of its key."""

import time
from hashlib import sha256

from app.auth.roles import Access

VALID_SECONDS = 0.8
"""A revoked key is refused within a second: this, and the time that one read may take."""
MOST_KEYS = 10_000


class KeyCache:
    """What recent Authorization headers give access to. Only for the thread of the event loop."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Access, float]] = {}

    def access(self, authorization: str | None) -> Access | None:
        """What a key that was valid less than a second ago gives access to, else None."""
        found = self._known.get(_digest(authorization))
        return found[0] if found is not None and time.monotonic() < found[1] else None

    def keep(self, authorization: str | None, access: Access, began: float) -> None:
        """Remember a valid key. `began` is when its read began, by `time.monotonic`."""
        if len(self._known) >= MOST_KEYS:
            self._known.clear()
        self._known[_digest(authorization)] = access, began + VALID_SECONDS


def _digest(authorization: str | None) -> bytes:
    # The keys themselves are not kept in memory.
    return sha256((authorization or "").encode()).digest()
