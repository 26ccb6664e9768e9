"""Every read of jobs. Functions take a session and return rows or plain values."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from app.datasets.tables import Dataset
from app.db import now
from app.jobs.lifecycle.heads import status_is
from app.jobs.states import TERMINAL, JobStatus
from app.jobs.tables import Artifact, Job, JobDataset


def job(session: Session, project_id: str, job_id: str) -> Job | None:
    """One job of this project."""
    return session.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id, Job.deleted_at.is_(None)))


def checkpoints(session: Session, job_id: str) -> Sequence[Artifact]:
    """Checkpoints that can be downloaded, newest first."""
    return session.scalars(
        select(Artifact)
        .where(Artifact.job_id == job_id, Artifact.kind == "checkpoint", Artifact.deleted_at.is_(None))
        .order_by(Artifact.step.desc(), Artifact.attempt.desc())
    ).all()


def artifact(session: Session, job: Job, step: int | None) -> Artifact | None:
    """The published model, or the checkpoint of a step."""
    if step is None:
        return session.get(Artifact, job.artifact_id) if job.artifact_id else None
    return next((found for found in checkpoints(session, job.id) if found.step == step), None)


def job_that_needs(session: Session, dataset_id: str) -> str | None:
    """A job that has not ended and reads this dataset."""
    return session.scalar(
        select(Job.id)
        .join(JobDataset, JobDataset.job_id == Job.id)
        .where(JobDataset.dataset_id == dataset_id, Job.status.not_in(TERMINAL))
        .limit(1)
    )


def job_datasets(session: Session, job_id: str) -> Sequence[Dataset]:
    """The uploaded datasets that a job reads."""
    return session.scalars(
        select(Dataset).join(JobDataset, JobDataset.dataset_id == Dataset.id).where(JobDataset.job_id == job_id)
    ).all()


def preflight(session: Session, job_id: str) -> dict[str, Any]:
    """What is known so far about a job's rows and steps."""
    return session.scalar(select(Job.preflight).where(Job.id == job_id)) or {}


def running_on(session: Session, project_id: str) -> dict[str, list[str]]:
    """Worker id to the ids of this project's jobs that it runs."""
    owned: dict[str, list[str]] = {}
    mine = select(Job.owner, Job.id).where(status_is(Job, JobStatus.RUNNING), Job.project_id == project_id)
    for owner, job_id in session.execute(mine):
        owned.setdefault(owner or "", []).append(job_id)
    return owned


def expired_leases(session: Session) -> Sequence[Row[str, int]]:
    """Id and attempt of the running jobs whose worker stopped renewing its lease."""
    return session.execute(
        select(Job.id, Job.attempt).where(status_is(Job, JobStatus.RUNNING), Job.lease_expires_at < now())
    ).all()


def past_deadline(session: Session) -> Sequence[str]:
    """Queued and running jobs whose deadline has passed."""
    return session.scalars(select(Job.id).where(_UNFINISHED, Job.deadline_at < now())).all()


def due_queues(session: Session, *, within: float) -> Sequence[str]:
    """Queues with a job that became due within the last `within` seconds and still waits."""
    return session.scalars(
        select(Job.queue)
        .where(status_is(Job, JobStatus.QUEUED), Job.available_at <= now(), Job.available_at > now() - within)
        .distinct()
    ).all()


def job_counts(session: Session) -> dict[str, int]:
    """Status to the number of jobs of all projects, where there are any."""
    return dict(session.execute(select(Job.status, func.count()).group_by(Job.status)).tuples().all())


def longest_wait(session: Session) -> float | None:
    """How many seconds the oldest queued job of all projects has waited."""
    first = select(Job.queued_at).where(Job.status == JobStatus.QUEUED).order_by(Job.queued_at).limit(1)
    return session.scalar(select(now() - first.scalar_subquery()))


def seconds_left(session: Session, job_id: str) -> float | None:
    """Seconds until a job's deadline by the database's clock."""
    return session.scalar(select(Job.deadline_at - now()).where(Job.id == job_id))


# Written as in the index on it: neither database uses a partial index for values that it gets later.
_UNFINISHED = text("jobs.status IN ('queued', 'running')")
