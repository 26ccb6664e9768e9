"""What the API says of the queue: positions and workers, read at most twice a second however many clients ask."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from app.jobs.lifecycle.line import Line, first_in_line
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
        self._lines: dict[str, _Cached[Line]] = {}
        self._fleet = _Cached[Fleet](lambda session: fleet(session, silent_for=silent_for))

    def position(self, session: Session, job: JobView) -> int | str | None:
        """How many jobs of its queue run before a queued job: exact below 1000, then "1000+". None if it is not queued."""
        if job.status != JobStatus.QUEUED:
            return None
        if job.queue not in self._lines:
            self._lines[job.queue] = _line_of(job.queue)
        before = (
            self._lines[job.queue]
            .get(session)
            .before(priority=job.priority, project_id=job.project_id, queued_at=job.queued_at, job_id=job.id)
        )
        return before if before < POSITIONS else BEYOND

    def waiting_for(self, session: Session, job: JobView) -> str | None:
        """Why a queued job does not run yet, in words; None unless it is queued."""
        return waiting_for(job, self._fleet.get(session)) if job.status == JobStatus.QUEUED else None

    def forget(self) -> None:
        """Read the queue again soon: this process has changed it."""
        for line in self._lines.values():
            line.forget()


class _Cached(Generic[Value]):
    """A value that one request reads when it is old, while the others get the old one."""

    def __init__(self, read: Callable[[Session], Value]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._value: Value | None = None
        self._good_until = self._soonest = 0.0

    def get(self, session: Session) -> Value:
        # Nobody waits for the lock: on the event loop, the query that holds it may be waiting for the database.
        if time.monotonic() <= self._good_until or not self._lock.acquire(blocking=False):
            return self._read(session) if self._value is None else self._value
        try:
            began = time.monotonic()
            self._value = self._read(session)
            ended = time.monotonic()
            self._soonest = ended + (ended - began) / SHARE
            self._good_until = max(self._soonest, began + FRESH_SECONDS)
            return self._value
        finally:
            self._lock.release()

    def forget(self) -> None:
        self._good_until = self._soonest


def _line_of(queue: str) -> _Cached[Line]:
    return _Cached(lambda session: first_in_line(session, queue, POSITIONS))
