"""Deletes jobs, models and checkpoints. What is hidden first is removed later, even if this process dies in between."""

import logging
from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db import Database, now
from app.errors import Conflict, NotFound
from app.jobs import queries
from app.jobs.states import TERMINAL, JobStatus
from app.jobs.tables import Artifact, Event, Job, JobDataset, LogChunk
from app.storage import Storage

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 2_000


def delete_job(database: Database, storage: Storage, project_id: str, job_id: str) -> None:
    """Delete a job that has ended: its events, logs, checkpoints and model, and its spec. Its row stays, hidden.

    Raises NotFound, Conflict if it has not ended or another job needs it, and StorageError. After a StorageError, garbage
    collection removes what is left.
    """
    with database.write() as session:
        job = _job(session, project_id, job_id)
        if job.status not in TERMINAL:
            raise Conflict(f"this job is '{job.status}'; cancel it first", code="job_not_ended")
        if (other := needed_by(session, job)) is not None:
            raise Conflict(f"job {other} has not ended and starts from this job", code="job_in_use")
        session.execute(
            update(Job)
            .where(Job.id == job_id, Job.status.in_(TERMINAL))
            .values(deleted_at=now(), spec={}, resolved=None, preflight=None, error=None, artifact_id=None)
        )
        session.execute(
            update(Artifact).where(Artifact.job_id == job_id, Artifact.deleted_at.is_(None)).values(deleted_at=now())
        )
    purge(database, storage, job_id)


def delete_checkpoint(database: Database, storage: Storage, project_id: str, job_id: str, step: int) -> None:
    """Delete a checkpoint of a job that is not running.

    Raises NotFound, Conflict if the job runs or another job starts from the checkpoint, and StorageError.
    """
    with database.write() as session:
        job = _job(session, project_id, job_id)
        found = queries.artifact(session, job, step)
        if found is None:
            raise NotFound("this job has no such checkpoint", param="step", code="checkpoint_not_found")
        if job.status == JobStatus.RUNNING:
            raise Conflict("this job is running, and may need the checkpoint; pause it first", code="job_running")
        if (other := _started_from(session, [found.id])) is not None:
            raise Conflict(f"job {other} has not ended and starts from this checkpoint", code="checkpoint_in_use")
        prefix = found.prefix
        _hide(session, found.id)
    remove_artifact(database, storage, found.id, prefix)


def remove_artifact(database: Database, storage: Storage, artifact_id: str, prefix: str) -> None:
    """Remove the files of a hidden artifact, then its row. Raises StorageError."""
    storage.delete_prefix(prefix)
    with database.write() as session:
        session.execute(delete(Artifact).where(Artifact.id == artifact_id))


def purge(database: Database, storage: Storage, job_id: str) -> None:
    """Remove the files of a deleted job, its artifacts, events and logs. It can be repeated. Raises StorageError."""
    storage.delete_prefix(f"jobs/{job_id}")
    for table, key in ((Event, Event.seq), (LogChunk, LogChunk.start)):
        while True:
            with database.write() as session:
                some = session.scalars(
                    select(key).where(table.job_id == job_id).order_by(key).limit(ROWS_AT_ONCE)
                ).all()
                if some:
                    session.execute(delete(table).where(table.job_id == job_id, key <= some[-1]))
            if len(some) < ROWS_AT_ONCE:
                break
    with database.write() as session:
        session.execute(delete(Artifact).where(Artifact.job_id == job_id))
        session.execute(delete(JobDataset).where(JobDataset.job_id == job_id))
        session.execute(update(Job).where(Job.id == job_id).values(purged_at=now()))


def unpurged(session: Session) -> Sequence[str]:
    """Deleted jobs of which something may be left."""
    return session.scalars(select(Job.id).where(Job.deleted_at.is_not(None), Job.purged_at.is_(None))).all()


def needed_by(session: Session, job: Job) -> str | None:
    """A job that has not ended and starts from the model or a checkpoint of this one."""
    artifacts = session.scalars(select(Artifact.id).where(Artifact.job_id == job.id)).all()
    return _started_from(session, artifacts) or session.scalar(
        select(Job.id)
        .where(
            Job.project_id == job.project_id,
            Job.status.not_in(TERMINAL),
            Job.spec["model"]["id"].as_string() == f"job:{job.id}",
        )
        .limit(1)
    )


def pin(session: Session, project_id: str, job_id: str, step: int | None, *, pinned: bool) -> None:
    """Pin a job with all that belongs to it, or one checkpoint; or remove the pin. Raises NotFound."""
    job = _job(session, project_id, job_id)
    value = now() if pinned else None
    if step is None:
        session.execute(update(Job).where(Job.id == job_id).values(pinned_at=value))
        return
    found = queries.artifact(session, job, step)
    if found is None:
        raise NotFound("this job has no such checkpoint", param="step", code="checkpoint_not_found")
    session.execute(update(Artifact).where(Artifact.id == found.id).values(pinned_at=value))


def hide_unneeded(session: Session, artifact_id: str) -> bool:
    """Hide an artifact of a job that has ended, unless it is pinned or needed meanwhile. Whether it is hidden now."""
    found = session.get(Artifact, artifact_id)
    job = session.get(Job, found.job_id) if found is not None else None
    if found is None or job is None or found.pinned_at or job.pinned_at or job.status not in TERMINAL:
        return False
    if needed_by(session, job) is not None:
        return False
    _hide(session, artifact_id)
    session.execute(update(Job).where(Job.id == job.id, Job.artifact_id == artifact_id).values(artifact_id=None))
    return True


def _job(session: Session, project_id: str, job_id: str) -> Job:
    job = queries.job(session, project_id, job_id)
    if job is None:
        raise NotFound("there is no such job in this project", param="job_id", code="job_not_found")
    return job


def _hide(session: Session, artifact_id: str) -> None:
    session.execute(update(Artifact).where(Artifact.id == artifact_id).values(deleted_at=now()))


def _started_from(session: Session, artifacts: Sequence[str]) -> str | None:
    child = select(Job.id).where(Job.start_artifact_id.in_(artifacts), Job.status.not_in(TERMINAL))
    return session.scalar(child.limit(1)) if artifacts else None
