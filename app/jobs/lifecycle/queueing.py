"""Into the queue and out of it: submit, and the claim that decides which job is next."""

from collections.abc import Collection, Sequence
from typing import Any

import orjson
from sqlalchemy import Integer, Text, bindparam, case, cast, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from app.db import Prepared, now
from app.jobs import events
from app.jobs.lifecycle.heads import first_due, index_order, next_projects, status_is
from app.jobs.lifecycle.transitions import append
from app.jobs.needs import needs_of
from app.jobs.states import EDGES, JobStatus
from app.jobs.tables import Job
from app.jobs.usage import counted
from app.specs.features import known_features
from app.webhooks.outbox import announce

ADOPTED = 100
"""How many jobs of an earlier service one claim takes into the index."""


def submit(session: Session, job: Job) -> None:
    """Add a queued job and its first event. The caller adds the idempotency row to the same transaction."""
    job.event_seq = 1
    session.add(job)
    session.flush()
    append(session, job.id, 1, 0, [events.submitted(job.parent_id)])
    announce(session, job.id, 1, JobStatus.QUEUED)


def claim(
    session: Session,
    owner: str,
    queues: Sequence[str],
    lease_seconds: float,
    features: Collection[str] | None = None,
) -> Job | None:
    """Take the best queued job of these queues, or None.

    The caller owns it for `lease_seconds`. `features` are those that the caller knows; without them, all that this
    version knows.
    """
    adopt(session)
    known = known_features() if features is None else features
    # If other claims have locked all due jobs of the first projects, the others are tried too.
    for looks_at_all in (False, True):
        found = next_projects(session, queues, known, lease_seconds, looks_at_all=looks_at_all)
        for needs, project_id in found:
            job = _take(session, owner, needs, project_id, gpus=int("gpu" in queues), lease_seconds=lease_seconds)
            if job is not None:
                return job
        if not found:
            return None
    return None


def _take(session: Session, owner: str, needs: str, project_id: str, *, gpus: int, lease_seconds: float) -> Job | None:
    taken = EDGES["claim"]
    values = {"needs": needs, "project": project_id, "owner": owner, "seconds": lease_seconds, "gpus": gpus}
    claimed = _CLAIM.rows(session, **values)
    if not claimed:
        return None
    job_id, seq, attempt = claimed[0]
    append(session, job_id, seq, attempt, [events.status(taken, owner=owner)])
    announce(session, job_id, seq, taken.target)
    return session.get_one(Job, job_id, populate_existing=True)


def adopt(session: Session) -> None:
    """Say what the jobs need that a service before 0009 has added to the queue. Without it, no claim would find them."""
    for job_id, queue, engine, features in _ORPHANS.rows(session):
        needs = needs_of(queue, engine, None if features is None else orjson.loads(features))
        session.execute(update(Job).where(Job.id == job_id, Job.needs.is_(None)).values(needs=needs))


def _claim() -> ReturningUpdate[*tuple[Any, ...]]:
    taken = EDGES["claim"]
    first = first_due(bindparam("needs"), bindparam("project")).with_for_update(skip_locked=True)
    return (
        update(Job)
        .where(Job.id == first.scalar_subquery(), Job.status == taken.source)
        .values(
            status=taken.target,
            phase="preparing",
            attempt=Job.attempt + 1,
            step_at_claim=Job.furthest_step,
            reports_read=0,
            owner=bindparam("owner"),
            lease_expires_at=now() + bindparam("seconds"),
            first_started_at=func.coalesce(Job.first_started_at, now()),
            started_at=now(),
            gpus=case((Job.queue == "cpu", 0), else_=bindparam("gpus", type_=Integer)),
            **counted(taken),
            deadline_at=func.coalesce(Job.deadline_at, now() + Job.timeout_seconds),
            event_seq=Job.event_seq + 1,
        )
        .returning(Job.id, Job.event_seq, Job.attempt)
    )


_CLAIM = Prepared(_claim())
_ORPHANS = Prepared(
    select(Job.id, Job.queue, Job.engine, cast(Job.features, Text))
    .where(status_is(Job, JobStatus.QUEUED), Job.needs.is_(None))
    .order_by(*index_order(Job))
    .limit(ADOPTED)
)
