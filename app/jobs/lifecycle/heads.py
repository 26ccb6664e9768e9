"""The queue as an index: which project is next is found from the first job of each, however many jobs wait.

    needs of waiting jobs → those that the worker meets → projects that wait with them → the first due job of each → in order

Each arrow is a probe of the index `ix_jobs_waiting` for each needs or project, so the cost grows with these and not with the jobs. The statements are
built once, because building them takes longer than running them. Both recursive queries jump from one value of the index to the next ("loose index scan",
https://wiki.postgresql.org/wiki/Loose_indexscan).
"""

from collections.abc import Callable, Collection, Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.orm import Session, aliased

from app.db import now
from app.jobs.matching import runnable_with, runs_job
from app.jobs.states import JobStatus
from app.jobs.tables import Job
from app.workers.tables import Worker

CANDIDATES = 8
"""How many projects a claim tries, if other workers take their jobs at the same moment."""


def next_projects(
    session: Session, queues: Sequence[str], features: Collection[str], lease_seconds: float
) -> Sequence[tuple[str, str]]:
    """Needs and project of the jobs that are next, in the order of the queue, for a worker with these queues and features.

    The order is priority, then the project with fewer running jobs, then the job that has waited longest.
    """
    waiting = samples(session)
    if not waiting:
        return []
    met = session.scalars(_met(tuple(queues), frozenset(features), lease_seconds), {"samples": waiting}).all()
    if not met:
        return []
    return session.execute(_next(), {"met": met}).tuples().all()


def samples(session: Session) -> Sequence[str]:
    """The id of one job for each of the needs of waiting jobs."""
    return session.scalars(_samples()).all()


def waiting_projects(session: Session, queue: str) -> Sequence[tuple[str, str]]:
    """Needs and project of the jobs that wait in a queue, each once."""
    waiting = samples(session)
    needs = session.scalars(_needs_in_queue(), {"samples": waiting, "queue": queue}).all() if waiting else ()
    return session.execute(_listed_projects(), {"met": needs}).tuples().all() if needs else []


def running_jobs(session: Session) -> dict[str, int]:
    """Project to the number of its running jobs, where there are any."""
    return dict(session.execute(_running()).tuples().all())


def first_of(needs: str, project_id: str) -> Any:
    """The id of the first due job of a project that no other claim has locked, as a subquery."""
    return (
        select(Job.id)
        .where(*_in_line(Job, needs, project_id))
        .order_by(*order(Job))
        .limit(1)
        .with_for_update(skip_locked=True, of=Job)
        .scalar_subquery()
    )


def order(job: Any) -> tuple[ColumnElement[Any], ...]:
    """The order of one project's jobs: priority, then the longest wait."""
    return (job.priority.desc(), job.queued_at, job.id)


def index_order(job: Any) -> tuple[ColumnElement[Any], ...]:
    """The order of `ix_jobs_waiting`."""
    return (job.needs, job.project_id, *order(job))


def status_is(job: Any, status: JobStatus) -> ColumnElement[bool]:
    """The status as a part of the statement: neither database uses a partial index for a value that it gets later."""
    return job.status == literal_column(f"'{status}'")


def _in_line(job: Any, needs: Any, project_id: Any) -> tuple[ColumnElement[bool], ...]:
    return (
        status_is(job, JobStatus.QUEUED),
        job.needs == needs,
        job.project_id == project_id,
        job.available_at <= now(),
        job.cancel_requested_at.is_(None),
        job.pause_requested_at.is_(None),
    )


@cache
def _samples() -> Select[Any]:
    """One job for each of the needs of waiting jobs."""
    kinds = _kinds()
    return select(_least("id", lambda job: job.needs == kinds.c.needs)).where(kinds.c.needs.is_not(None))


@cache
def _needs_in_queue() -> Select[Any]:
    samples: BindParameter[str] = bindparam("samples", expanding=True)
    return select(Job.needs).where(Job.id.in_(samples), Job.queue == bindparam("queue"))


@cache
def _listed_projects() -> Select[Any, Any]:
    projects = _projects()
    return select(projects.c.needs, projects.c.project_id).where(projects.c.project_id.is_not(None))


@cache
def _running() -> Select[Any, Any]:
    busy = aliased(Job)
    counted = select(busy.project_id, func.count().label("jobs")).where(status_is(busy, JobStatus.RUNNING))
    return counted.group_by(busy.project_id)


@lru_cache(maxsize=32)
def _met(queues: tuple[str, ...], features: frozenset[str], lease_seconds: float) -> Select[Any]:
    """The needs of those of the `samples` that the worker can run."""
    samples: BindParameter[str] = bindparam("samples", expanding=True)
    met = select(Job.needs).where(Job.id.in_(samples), Job.queue.in_(queues), runnable_with(features))
    if "gpu" not in queues:
        # A job that can run on either is left to the GPU workers while one that can run it is alive.
        heard = Worker.last_seen_at > now() - lease_seconds
        faster = exists().where(Worker.stopped_at.is_(None), heard, Worker.queues.contains("gpu"), runs_job())
        met = met.where(or_(Job.queue != "any", ~faster))
    return met


@cache
def _next() -> Select[Any, Any]:
    """The projects with waiting jobs of the needs `met`, in the order of the queue."""
    projects = _projects()
    head, facts = aliased(Job), aliased(Job)
    first = (
        select(head.id)
        .where(*_in_line(head, projects.c.needs, projects.c.project_id))
        .order_by(*order(head))
        .limit(1)
        .scalar_subquery()
    )
    heads = (
        select(projects.c.needs, projects.c.project_id, first.label("id"))
        .where(projects.c.project_id.is_not(None))
        .cte("heads")
    )

    # Not by a join, for which a planner that expects many projects reads the whole table.
    def of_head(column: Any) -> Any:
        return select(column).where(facts.id == heads.c.id).scalar_subquery()

    running = _running().subquery()
    return (
        select(heads.c.needs, heads.c.project_id)
        .outerjoin(running, running.c.project_id == heads.c.project_id)
        .where(heads.c.id.is_not(None))
        .order_by(
            of_head(facts.priority).desc(), func.coalesce(running.c.jobs, 0), of_head(facts.queued_at), heads.c.id
        )
        .limit(CANDIDATES)
    )


def _kinds() -> CTE:
    """The needs of waiting jobs, each once."""
    kinds = select(_least("needs").label("needs")).cte("kinds", recursive=True)
    following = _least("needs", lambda job: job.needs > kinds.c.needs)
    return kinds.union_all(select(following).where(kinds.c.needs.is_not(None)))


def _projects() -> CTE:
    """Each of the needs `met` with each project that has waiting jobs of them."""
    kinds = _kinds()
    met: BindParameter[str] = bindparam("met", expanding=True)
    first = _least("project_id", lambda job: job.needs == kinds.c.needs)
    projects = (
        select(kinds.c.needs, first.label("project_id")).where(kinds.c.needs.in_(met)).cte("projects", recursive=True)
    )
    following = _least(
        "project_id", lambda job: and_(job.needs == projects.c.needs, job.project_id > projects.c.project_id)
    )
    return projects.union_all(select(projects.c.needs, following).where(projects.c.project_id.is_not(None)))


def _least(column: str, condition: Callable[[Any], ColumnElement[bool]] | None = None) -> Any:
    """A column of the first waiting job in the order of the index, as a subquery. With `min`, planners take other indexes."""
    job = aliased(Job)
    found = select(getattr(job, column)).where(status_is(job, JobStatus.QUEUED), job.needs.is_not(None))
    if condition is not None:
        found = found.where(condition(job))
    return found.order_by(*index_order(job)).limit(1).scalar_subquery()
