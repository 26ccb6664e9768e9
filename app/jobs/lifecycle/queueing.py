"""Into the queue and out of it: submit, and the claim that decides which job is next."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db import now
from app.jobs import events
from app.jobs.lifecycle.transitions import append
from app.jobs.matching import runnable_with, runs_job
from app.jobs.states import EDGES, JobStatus
from app.jobs.tables import Job
from app.jobs.usage import counted
from app.specs.features import known_features
from app.webhooks.outbox import announce
from app.workers.tables import Worker


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
    taken = EDGES["claim"]
    best = (
        select(Job.id)
        .where(*claimable(queues, known_features() if features is None else features, lease_seconds))
        .order_by(*queue_order())
        .limit(1)
        .with_for_update(skip_locked=True, of=Job)
        .scalar_subquery()
    )
    claimed = session.execute(
        update(Job)
        .where(Job.id == best, Job.status == taken.source)
        .values(
            status=taken.target,
            phase="preparing",
            attempt=Job.attempt + 1,
            step_at_claim=Job.furthest_step,
            reports_read=0,
            owner=owner,
            lease_expires_at=now() + lease_seconds,
            first_started_at=func.coalesce(Job.first_started_at, now()),
            started_at=now(),
            gpus=case((Job.queue == "cpu", 0), else_=int("gpu" in queues)),
            **counted(taken),
            deadline_at=func.coalesce(Job.deadline_at, now() + Job.timeout_seconds),
            event_seq=Job.event_seq + 1,
        )
        .returning(Job.id, Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if claimed is None:
        return None
    job_id, seq, attempt = claimed
    append(session, job_id, seq, attempt, [events.status(taken, owner=owner)])
    announce(session, job_id, seq, taken.target)
    job = session.get_one(Job, job_id)
    session.refresh(job)
    return job


def claimable(
    queues: Sequence[str], features: Collection[str], lease_seconds: float
) -> tuple[ColumnElement[bool], ...]:
    """The jobs that a worker with these queues and features may take now.

    A job that can run on either CPU or GPU is left to the GPU workers while one that can run it is alive.
    """
    due = (
        Job.status == JobStatus.QUEUED,
        Job.queue.in_(queues),
        Job.available_at <= now(),
        Job.cancel_requested_at.is_(None),
        Job.pause_requested_at.is_(None),
        runnable_with(features),
    )
    if "gpu" in queues:
        return due
    heard = Worker.last_seen_at > now() - lease_seconds
    faster = exists().where(Worker.stopped_at.is_(None), heard, Worker.queues.contains("gpu"), runs_job())
    return (*due, or_(Job.queue != "any", ~faster))


def queue_order() -> tuple[Any, ...]:
    """The order of the queue: priority, then the project with fewer running jobs, then the job that has waited longest."""
    other = aliased(Job)
    running = (
        select(func.count())
        .where(other.project_id == Job.project_id, other.status == JobStatus.RUNNING)
        .correlate(Job)
        .scalar_subquery()
    )
    return (Job.priority.desc(), running, Job.queued_at, Job.id)
