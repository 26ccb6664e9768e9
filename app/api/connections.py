"""The open connections of an API process: how many there may be, and how long a client may keep one waiting.

Whoever sends half a request, trickles a body or stops to read an answer would otherwise keep a connection, and what it holds,
forever. Once no descriptor is left, the service answers nobody.
"""

import asyncio
import logging
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LOG_SECONDS = 10.0
SPARE_DESCRIPTORS = 256
"""For the database, the storage, and files that are being sent."""
MOST_CONNECTIONS = 4096
YOUNGEST_SECONDS = 1.0
"""A connection that waits for its first request for less is not closed to make room for another one."""


@dataclass(frozen=True)
class Patience:
    """How long the service waits for a client, in seconds."""

    head: float
    """For the whole head of a request, from the opening of the connection or the end of the last response."""
    body: float
    """For a kilobyte of a body, while the service reads it."""
    send: float
    """For a client to read anything of the response."""


class Connection(Protocol):
    """A connection as the registry sees it."""

    def waits_since(self) -> float | None:
        """Since when, by `time.monotonic`, the head of the next request is awaited; None during a request."""
        ...

    def overdue(self, now: float, patience: Patience) -> str | None:
        """What the client took too long for, or None. Called once a second."""
        ...

    def give_up(self, reason: str) -> None:
        """Close the connection."""
        ...


@dataclass
class Connections:
    """All connections of one process."""

    limit: int
    patience: Patience
    closed: Counter[str] = field(default_factory=Counter[str])
    """Connections that the service closed by itself, by reason: `head`, `body`, `send`, `limit`, `make_room`."""
    _open: set[Connection] = field(default_factory=set[Connection])
    _timer: asyncio.TimerHandle | None = None
    _logged: dict[str, float] = field(default_factory=dict[str, float])

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection. At the limit, one that waits for a request is closed for it; False if there is none."""
        if len(self._open) >= self.limit and not self._make_room():
            self.note("limit")
            return False
        self._open.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        return True

    def forget(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)

    def note(self, reason: str) -> None:
        """Count a connection that the service closed, and log it, at most once every ten seconds for each reason."""
        self.closed[reason] += 1
        now = time.monotonic()
        if now - self._logged.get(reason, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged[reason] = now
            log.warning(
                "closed a connection (%s); %s are open, the limit is %s, closed so far: %s",
                reason,
                len(self._open),
                self.limit,
                dict(self.closed),
            )

    def _make_room(self) -> bool:
        now = time.monotonic()
        waiting = [(since, one) for one in self._open if (since := one.waits_since()) is not None]
        if not waiting:
            return False
        since, longest = min(waiting, key=lambda found: found[0])
        if now - since < YOUNGEST_SECONDS:
            return False
        self._close(longest, "make_room")
        return True

    def _tick(self) -> None:
        now = time.monotonic()
        for connection in list(self._open):
            if (reason := connection.overdue(now, self.patience)) is not None:
                self._close(connection, reason)
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick) if self._open else None

    def _close(self, connection: Connection, reason: str) -> None:
        self.forget(connection)
        self.note(reason)
        connection.give_up(reason)


def descriptor_limit(wanted: int) -> int:
    """Raise this process's limit of descriptors as far as allowed; returns the connections that then have room, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (wanted or MOST_CONNECTIONS) + SPARE_DESCRIPTORS
    raised = min(max(soft, needed), hard) if hard != resource.RLIM_INFINITY else max(soft, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    room = max(raised // 2, raised - SPARE_DESCRIPTORS)
    return min(wanted or MOST_CONNECTIONS, room)
