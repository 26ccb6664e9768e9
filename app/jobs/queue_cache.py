"""What the API says of the queue: positions and workers, read at most twice a second however many clients ask."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from app.jobs.lifecycle.line import first_in_line
from app.jobs.states import JobStatus
from app.jobs.views import JobView
from app.jobs.waiting import Fleet, fleet, waiting_for

POSITIONS = 1000
"""Positions are exact below this one."""
BEYOND = f"{POSITIONS}+"
FRESH_SECONDS = 0.5
SHARE = 0.05
"""The share of its time that a process may spend reading the queue. With very many projects, it reads it less often."""

Value = TypeVar("Value")


class QueueCache:
    """Positions of queued jobs and the workers that could run them. Methods may be called from any thread."""

    def __init__(self, silent_for: float) -> None:
        """`silent_for`: after how many silent seconds a worker counts as dead."""
        self._lines: dict[str, _Cached[Mapping[str, int]]] = {}
        self._fleet = _Cached[Fleet](lambda session: fleet(session, silent_for=silent_for))

    def position(self, session: Session, job: JobView) -> int | str | None:
        """How many jobs of its queue run before a queued job: exact below 1000, then "1000+". None if it is not queued."""
        if job.status != JobStatus.QUEUED:
            return None
        line = self._lines.setdefault(job.queue, _line_of(job.queue))
        places = line.get(session)
        if job.id not in places and len(places) < POSITIONS:
            # It was queued through another process after the line was read.
            places = line.get(session, known=places)
        return places.get(job.id, BEYOND if len(places) == POSITIONS else None)

    def waiting_for(self, session: Session, job: JobView) -> str | None:
        """Why a queued job does not run yet, in words; None unless it is queued."""
        return waiting_for(job, self._fleet.get(session)) if job.status == JobStatus.QUEUED else None

    def forget(self) -> None:
        """Read the queue again at the next request: this process has changed it."""
        for line in self._lines.values():
            line.forget()


class _Cached(Generic[Value]):
    """A value that one thread reads when it is old, while the others wait for it."""

    def __init__(self, read: Callable[[Session], Value]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._value: Value | None = None
        self._good_until = 0.0

    def get(self, session: Session, *, known: Value | None = None) -> Value:
        """The value, but not the one that is `known` to be old."""
        with self._lock:
            if self._value is None or self._value is known or time.monotonic() > self._good_until:
                began = time.monotonic()
                self._value = self._read(session)
                took = time.monotonic() - began
                self._good_until = began + max(FRESH_SECONDS, took / SHARE)
            return self._value

    def forget(self) -> None:
        self._good_until = 0.0


def _line_of(queue: str) -> _Cached[Mapping[str, int]]:
    def read(session: Session) -> Mapping[str, int]:
        return {job_id: place for place, job_id in enumerate(first_in_line(session, queue, POSITIONS))}

    return _Cached(read)
