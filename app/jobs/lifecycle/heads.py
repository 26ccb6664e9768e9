"""The queue as an index: which project is next is found from the first job of each, however many jobs wait.

    needs of waiting jobs → those that the worker meets → projects that wait with them → the first due job of each → in order

Each arrow is a probe of the index `ix_jobs_waiting` for each needs or project, so the cost grows with these and not with the
jobs. Before the projects are walked through, the front of the line is read (`ix_jobs_front`): where a project without
running jobs is in it, it is next, however many projects there are. Both recursive queries jump from one value of the index to the next ("loose index scan",
https://wiki.postgresql.org/wiki/Loose_indexscan).
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    select,
)
from sqlalchemy.orm import Session, aliased

from app.db import Prepared, now
from app.jobs.matching import Knows, known_by, missing_features
from app.jobs.states import JobStatus
from app.jobs.tables import Job
from app.workers.tables import Worker

FRONT = 48
"""How many jobs at the front of the line are looked at before all projects are."""
CANDIDATES = 8
"""How many projects a claim tries, if other workers take their jobs at the same moment."""


class Kind(NamedTuple):
    """Waiting jobs that the same workers can run."""

    needs: str
    queue: str
    engine: str
    features: list[str] | None
    sample: str
    """The id of one of these jobs."""


def next_projects(
    session: Session,
    queues: Sequence[str],
    features: Collection[str],
    lease_seconds: float,
    *,
    looks_at_all: bool = False,
) -> Sequence[tuple[str, str]]:
    """Needs and project of the jobs that are next, in the order of the queue, for a worker with these queues and features.

    The order is priority, then the project with fewer running jobs, then the job that has waited longest. Unless
    `looks_at_all`, there may be fewer than CANDIDATES, but the first is the right one.
    """
    own = known_by(features)
    met = [kind for kind in waiting_kinds(session) if kind.queue in queues and not missing_features(kind, own)]
    if "gpu" not in queues and any(kind.queue == "any" for kind in met):
        # A job that can run on either is left to the GPU workers while one that can run it is alive.
        faster = _gpu_workers(session, lease_seconds)
        met = [kind for kind in met if kind.queue != "any" or all(missing_features(kind, worker) for worker in faster)]
    if not met:
        return []
    needs = [kind.needs for kind in met]
    heads = None if looks_at_all else _idle_at_front(session, needs)
    if heads is None:
        heads = [head for one in needs for head in _heads_of_all(session, one)]
    return [(head.needs, head.project_id) for head in sorted(heads)[:CANDIDATES]]


class _Head(NamedTuple):
    """A project's next job, in the order of the queue."""

    negative_priority: int
    running: int
    queued_at: float
    job_id: str
    needs: str
    project_id: str


def _idle_at_front(session: Session, needs: Collection[str]) -> list[_Head] | None:
    """The projects that are next because none of their jobs runs, or None if the front of the line does not show it."""
    rows = _FRONT.rows(session, limit=FRONT)
    due = [row for row in rows if row.is_due and row.needs in needs]
    if not due and len(rows) < FRONT:
        return []
    heads: dict[str, _Head] = {}
    for row in due:
        # Those of lower priority come after projects that run jobs of this one.
        if row.priority == due[0].priority and not row.is_busy:
            head = _Head(-row.priority, 0, row.queued_at, row.id, row.needs, row.project_id)
            heads.setdefault(row.project_id, head)
    return list(heads.values()) or None


def _heads_of_all(session: Session, needs: str) -> list[_Head]:
    return [
        _Head(priority, running, queued_at, job_id, needs, project)
        for priority, running, queued_at, job_id, project in _HEADS.rows(session, needs=needs)
    ]


def waiting_kinds(session: Session) -> list[Kind]:
    """What the waiting jobs need of a worker."""
    return [
        Kind(needs, queue, engine, None if features is None else orjson.loads(features), sample)
        for needs, queue, engine, features, sample in _KINDS.rows(session)
    ]


def waiting_projects(session: Session, needs: str) -> list[str]:
    """The projects that wait with jobs of these needs."""
    return [project for (project,) in _PROJECTS.rows(session, needs=needs)]


def running_jobs(session: Session) -> Counter[str]:
    """Project to the number of its running jobs."""
    return Counter(project for (project,) in _RUNNING.rows(session))


def first_due(needs: Any, project_id: Any) -> Select[str]:
    """The id of the first job of a project that is due."""
    job = aliased(Job)
    return (
        select(job.id)
        .where(
            status_is(job, JobStatus.QUEUED),
            job.needs == needs,
            job.project_id == project_id,
            *_is_due(job),
        )
        .order_by(*order(job))
        .limit(1)
    )


def _is_due(job: Any) -> tuple[ColumnElement[bool], ...]:
    return job.available_at <= now(), job.cancel_requested_at.is_(None), job.pause_requested_at.is_(None)


def order(job: Any) -> tuple[ColumnElement[Any], ...]:
    """The order of one project's jobs: priority, then the longest wait."""
    return (job.priority.desc(), job.queued_at, job.id)


def index_order(job: Any) -> tuple[ColumnElement[Any], ...]:
    """The order of `ix_jobs_waiting`."""
    return (job.needs, job.project_id, *order(job))


def status_is(job: Any, status: JobStatus) -> ColumnElement[bool]:
    """The status as a part of the statement: neither database uses a partial index for a value that it gets later."""
    return job.status == literal_column(f"'{status}'")


def _gpu_workers(session: Session, lease_seconds: float) -> list[Knows]:
    return [
        Knows(engines.split(","), None if features is None else orjson.loads(features))
        for engines, features in _GPU_WORKERS.rows(session, silent=lease_seconds)
    ]


def _least(column: str, condition: Callable[[Any], ColumnElement[bool]] | None = None) -> Any:
    """A column of the first waiting job in the order of the index, as a subquery. With `min`, planners take other indexes."""
    job = aliased(Job)
    found = select(getattr(job, column)).where(status_is(job, JobStatus.QUEUED), job.needs.is_not(None))
    if condition is not None:
        found = found.where(condition(job))
    return found.order_by(*index_order(job)).limit(1).scalar_subquery()


def _of_job(column: Any, job: Any, job_id: Any) -> Any:
    """A column of one job. Not by a join, for which a planner that expects many rows reads the whole table."""
    return select(column).where(job.id == job_id).scalar_subquery()


def _kinds() -> Select[*tuple[Any, ...]]:
    kinds = select(_least("needs").label("needs")).cte("kinds", recursive=True)
    following = _least("needs", lambda job: job.needs > kinds.c.needs)
    kinds = kinds.union_all(select(following).where(kinds.c.needs.is_not(None)))
    samples = select(kinds.c.needs, _least("id", lambda job: job.needs == kinds.c.needs).label("id"))
    found = samples.where(kinds.c.needs.is_not(None)).cte("samples").prefix_with("MATERIALIZED")
    facts = aliased(Job)
    columns = (facts.queue, facts.engine, cast(facts.features, Text))
    return select(found.c.needs, *(_of_job(column, facts, found.c.id) for column in columns), found.c.id)


def _projects() -> CTE:
    """Each project that has waiting jobs of the given needs; the last row is NULL."""
    needs = bindparam("needs", type_=Text)
    first = _least("project_id", lambda job: job.needs == needs)
    projects = select(first.label("project_id")).cte("projects", recursive=True)
    following = _least("project_id", lambda job: (job.needs == needs) & (job.project_id > projects.c.project_id))
    return projects.union_all(select(following).where(projects.c.project_id.is_not(None)))


def _front() -> Select[*tuple[Any, ...]]:
    """The first jobs by priority and wait, whatever their project and needs."""
    busy = aliased(Job)
    return (
        select(
            Job.priority,
            Job.queued_at,
            Job.id,
            Job.needs,
            Job.project_id,
            and_(*_is_due(Job)).label("is_due"),
            exists().where(status_is(busy, JobStatus.RUNNING), busy.project_id == Job.project_id).label("is_busy"),
        )
        .where(status_is(Job, JobStatus.QUEUED))
        .order_by(*order(Job))
        .limit(bindparam("limit"))
    )


def _waiting_projects() -> Select[str]:
    projects = _projects()
    return select(projects.c.project_id).where(projects.c.project_id.is_not(None))


def _heads() -> Select[*tuple[Any, ...]]:
    """The place in the queue of the first due job of each project: negative priority, running jobs, time, id; its project."""
    projects = _projects()
    first = first_due(bindparam("needs", type_=Text), projects.c.project_id).scalar_subquery()
    found = select(projects.c.project_id, first.label("id")).where(projects.c.project_id.is_not(None))
    # Otherwise the subquery would run once for each column below.
    heads = found.cte("heads").prefix_with("MATERIALIZED")
    facts, busy = aliased(Job), aliased(Job)
    priority, queued_at = (_of_job(column, facts, heads.c.id) for column in (facts.priority, facts.queued_at))
    running = select(func.count()).where(status_is(busy, JobStatus.RUNNING), busy.project_id == heads.c.project_id)
    return (
        select(-priority, running.scalar_subquery(), queued_at, heads.c.id, heads.c.project_id)
        .where(heads.c.id.is_not(None))
        .order_by(*(literal_column(str(place), Integer) for place in range(1, 5)))
        .limit(CANDIDATES)
    )


_KINDS, _HEADS, _FRONT = Prepared(_kinds()), Prepared(_heads()), Prepared(_front())
_RUNNING = Prepared(select(Job.project_id).where(status_is(Job, JobStatus.RUNNING)))
_PROJECTS = Prepared(_waiting_projects())
_GPU_WORKERS = Prepared(
    select(Worker.engines, cast(Worker.features, Text)).where(
        Worker.stopped_at.is_(None), Worker.last_seen_at > now() - bindparam("silent"), Worker.queues.contains("gpu")
    )
)
