"""The first jobs of a queue in the order in which workers take them, merged from the lines of its projects."""

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from sqlalchemy import BindParameter, Double, Integer, String, and_, bindparam, or_, select, tuple_
from sqlalchemy.orm import Session

from app.db import Prepared
from app.jobs.lifecycle.heads import order, running_jobs, status_is, waiting_kinds, waiting_projects
from app.jobs.states import JobStatus
from app.jobs.tables import Job

FIRST_ROWS, MOST_ROWS = 8, 1000
"""How many rows of one project are read at once: few at first, then twice as many each time."""


Place = tuple[int, int, float, str]
"""What the queue is ordered by: the negative priority, running jobs of the project, when it was queued, and its id."""


class Line(NamedTuple):
    """The beginning of a queue."""

    places: list[Place]
    running: Counter[str]
    """Running jobs of each project."""

    def ids(self) -> list[str]:
        """The ids of the jobs in order."""
        return [job_id for *_, job_id in self.places]

    def before(self, *, priority: int, project_id: str, queued_at: float, job_id: str) -> int:
        """How many jobs of the line come before this one, which may be newer than the line."""
        return bisect_left(self.places, (-priority, self.running[project_id], queued_at, job_id))


def first_in_line(session: Session, queue: str, limit: int) -> Line:
    """The first `limit` jobs that wait in a queue: by priority, then running jobs of the project, then how long they wait.

    Jobs of services before migration 0009 are missing until a claim has adopted them.
    """
    running = running_jobs(session)
    lines = [
        _line(session, kind.needs, project, running[project], limit)
        for kind in waiting_kinds(session)
        if kind.queue == queue
        for project in waiting_projects(session, kind.needs)
    ]
    return Line(list(islice(heapq.merge(*lines), limit)), running)


def _line(session: Session, needs: str, project: str, running: int, limit: int) -> Iterator[Place]:
    rows = FIRST_ROWS
    last: Sequence[object] | None = None
    while limit > 0:
        wanted = min(rows, limit, MOST_ROWS)
        values = {"needs": needs, "project_id": project, "limit": wanted}
        if last is None:
            found = _FIRST.rows(session, **values)
        else:
            found = _NEXT.rows(session, **values, after_priority=last[0], after_queued=last[1], after_id=last[2])
        for priority, queued_at, job_id in found:
            yield -priority, running, queued_at, job_id
        if len(found) < wanted:
            return
        last = found[-1]
        limit -= wanted
        rows *= 2


def _parameter(name: str, kind: type) -> BindParameter[object]:
    return bindparam(name, type_=kind())


_FIRST_ROWS = (
    select(Job.priority, Job.queued_at, Job.id)
    .where(
        status_is(Job, JobStatus.QUEUED),
        Job.needs == bindparam("needs"),
        Job.project_id == bindparam("project_id"),
    )
    .order_by(*order(Job))
    .limit(bindparam("limit"))
)
_FIRST = Prepared(_FIRST_ROWS)
_NEXT = Prepared(
    # The first condition is the beginning of the range in the index. The second excludes what has been read of it.
    _FIRST_ROWS.where(
        Job.priority <= _parameter("after_priority", Integer),
        or_(
            Job.priority < _parameter("after_priority", Integer),
            and_(
                Job.priority == _parameter("after_priority", Integer),
                tuple_(Job.queued_at, Job.id)
                > tuple_(_parameter("after_queued", Double), _parameter("after_id", String)),
            ),
        ),
    )
)
