"""Every read of jobs. Functions take a session and return rows or plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.datasets.tables import Dataset
from app.db import json_pairs, now, page
from app.jobs.states import TERMINAL, JobStatus
from app.jobs.tables import Artifact, Event, Job, JobDataset, LogChunk


def job(session: Session, project_id: str, job_id: str) -> Job | None:
    """One job of this project."""
    return session.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id))


def jobs(
    session: Session,
    project_id: str,
    *,
    limit: int,
    after: str | None = None,
    status: str | None = None,
    task: str | None = None,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
    created_after: float | None = None,
    created_before: float | None = None,
) -> tuple[list[Job], bool]:
    """A page of jobs, newest first, and whether there are more. `after` is the last id of the previous page."""
    query = select(Job).where(Job.project_id == project_id)
    exact = [(Job.status, status), (Job.task, task), (Job.name, name)]
    query = query.where(*(column == value for column, value in exact if value is not None))
    query = query.where(*(_has_pair(Job.user_metadata, key, value) for key, value in (metadata or {}).items()))
    if created_after is not None:
        query = query.where(Job.created_at > created_after)
    if created_before is not None:
        query = query.where(Job.created_at < created_before)
    if after is not None:
        query = query.where(Job.id < after)
    return page(session, query.order_by(Job.id.desc()), limit)


def events(
    session: Session, job_id: str, *, after: int, limit: int, kind: str | None = None
) -> tuple[list[Event], bool]:
    """A page of a job's log in order, and whether there are more."""
    query = select(Event).where(Event.job_id == job_id, Event.seq > after)
    if kind is not None:
        query = query.where(Event.type == kind)
    return page(session, query.order_by(Event.seq), limit)


def event_heads(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """Job id to the id of its newest event."""
    heads = session.execute(select(Job.id, Job.event_seq).where(Job.id.in_(job_ids)))
    return {job_id: head for job_id, head in heads}  # noqa: C416 - dict() of rows has no type


def status(session: Session, job_id: str) -> str | None:
    """The status of a job, or None without it."""
    return session.scalar(select(Job.status).where(Job.id == job_id))


def metric_events(session: Session, job_id: str) -> Sequence[Row[dict[str, Any], int, float]]:
    """Data, attempt and time of all metric events, in order."""
    return session.execute(
        select(Event.data, Event.attempt, Event.created_at)
        .where(Event.job_id == job_id, Event.type == "metric")
        .order_by(Event.seq)
    ).all()


def log_tail(session: Session, job_id: str, *, attempt: int | None, limit: int) -> tuple[int | None, str]:
    """The last `limit` characters of an attempt's output, the newest attempt that has any if None."""
    if attempt is None:
        attempt = session.scalar(select(func.max(LogChunk.attempt)).where(LogChunk.job_id == job_id))
    pieces: list[str] = []
    size = 0
    rows = session.execute(
        select(LogChunk.text)
        .where(LogChunk.job_id == job_id, LogChunk.attempt == attempt)
        .order_by(LogChunk.start.desc())
        .execution_options(yield_per=16)
    )
    for (text,) in rows:
        pieces.append(text)
        size += len(text)
        if size >= limit:
            break
    rows.close()
    return attempt, "".join(reversed(pieces))[-limit:]


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
    mine = select(Job.owner, Job.id).where(Job.status == JobStatus.RUNNING, Job.project_id == project_id)
    for owner, job_id in session.execute(mine):
        owned.setdefault(owner or "", []).append(job_id)
    return owned


def expired_leases(session: Session) -> Sequence[Row[str, int]]:
    """Id and attempt of the running jobs whose worker stopped renewing its lease."""
    return session.execute(
        select(Job.id, Job.attempt).where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < now())
    ).all()


def past_deadline(session: Session) -> Sequence[str]:
    """Queued and running jobs whose deadline has passed."""
    unfinished = Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
    return session.scalars(select(Job.id).where(unfinished, Job.deadline_at < now())).all()


def due_queues(session: Session, *, within: float) -> Sequence[str]:
    """Queues with a job that became due within the last `within` seconds and still waits."""
    return session.scalars(
        select(Job.queue)
        .where(Job.status == JobStatus.QUEUED, Job.available_at <= now(), Job.available_at > now() - within)
        .distinct()
    ).all()


def job_counts(session: Session) -> dict[str, int]:
    """Status to the number of jobs of all projects, where there are any."""
    return dict(session.execute(select(Job.status, func.count()).group_by(Job.status)).tuples().all())


def longest_wait(session: Session) -> float | None:
    """How many seconds the oldest queued job of all projects has waited."""
    return session.scalar(select(now() - func.min(Job.queued_at)).where(Job.status == JobStatus.QUEUED))


def clock(session: Session) -> float:
    """The database's clock, in seconds since 1970."""
    return session.execute(select(now())).scalar_one()


def seconds_left(session: Session, job_id: str) -> float | None:
    """Seconds until a job's deadline by the database's clock."""
    return session.scalar(select(Job.deadline_at - now()).where(Job.id == job_id))


def _has_pair(column: InstrumentedAttribute[dict[str, Any]], key: str, value: str) -> ColumnElement[bool]:
    pairs = json_pairs(column).table_valued("key", "value")
    return exists().where(pairs.c.key == key, pairs.c.value == value)
