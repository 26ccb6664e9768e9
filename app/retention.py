"""What is old enough to go: logs, checkpoints and models of jobs that have ended, and datasets. Nothing goes that is needed.

Needed are: what is pinned, what a job that has not ended starts from or reads, and jobs that have not ended.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from app.auth import ProjectLimits
from app.auth.tables import Project
from app.datasets import changes
from app.datasets.tables import Dataset
from app.db import Database, now
from app.errors import Conflict, NotFound
from app.jobs import deletion
from app.jobs.states import TERMINAL
from app.jobs.tables import Artifact, Job, JobDataset, LogChunk
from app.settings import Settings
from app.storage import Storage

DAY_SECONDS = 86400.0
KINDS = ("log", "checkpoint", "model", "dataset")

Kind = Literal["log", "checkpoint", "model", "dataset"]


@dataclass(frozen=True)
class Expired:
    """Something that retention removes."""

    kind: Kind
    id: str
    """Of the artifact or dataset; of a log, that of its job."""
    project_id: str
    job_id: str | None
    bytes: int


def expired(session: Session, settings: Settings) -> list[Expired]:
    """Everything that is older than its project or the settings allow, and not needed."""
    found: list[Expired] = []
    for project_id, limits in session.execute(select(Project.id, Project.limits)).tuples().all():
        days = _days(settings, ProjectLimits.model_validate(limits or {}))
        found += _logs(session, project_id, days["log"])
        for kind in ("checkpoint", "model"):
            found += _artifacts(session, project_id, kind, days[kind])
        found += _datasets(session, project_id, days["dataset"])
    return found


def remove(database: Database, storage: Storage, item: Expired) -> bool:
    """Remove one of them. False if it is needed by now. It can be repeated. Raises StorageError."""
    match item.kind:
        case "log":
            with database.write() as session:
                session.execute(delete(LogChunk).where(LogChunk.job_id == item.id))
        case "dataset":
            try:
                changes.remove(database, storage, item.project_id, item.id)
            except (Conflict, NotFound):
                return False
        case "checkpoint" | "model":
            with database.write() as session:
                artifact = session.get(Artifact, item.id)
                prefix = artifact.prefix if artifact is not None else None
                if prefix is None or not deletion.hide_unneeded(session, item.id):
                    return False
            deletion.remove_artifact(database, storage, item.id, prefix)
    return True


def _days(settings: Settings, limits: ProjectLimits) -> dict[str, float | None]:
    names = {kind: f"{kind}_days" for kind in KINDS}
    own = {kind: getattr(limits, name) for kind, name in names.items()}
    return {
        kind: own[kind] if own[kind] is not None else getattr(settings, f"retain_{name}")
        for kind, name in names.items()
    }


def _logs(session: Session, project_id: str, days: float | None) -> Iterator[Expired]:
    if days is None:
        return
    size = func.sum(func.length(LogChunk.text))
    rows = session.execute(
        select(Job.id, size)
        .join(LogChunk, LogChunk.job_id == Job.id)
        .where(Job.project_id == project_id, *_ended_before(days))
        .group_by(Job.id)
    )
    for job_id, length in rows:
        yield Expired("log", job_id, project_id, job_id, int(length))


def _artifacts(session: Session, project_id: str, kind: Kind, days: float | None) -> Iterator[Expired]:
    if days is None:
        return
    rows = session.execute(
        select(Artifact, Job)
        .join(Job, Artifact.job_id == Job.id)
        .where(
            Job.project_id == project_id,
            *_ended_before(days),
            Artifact.kind == kind,
            Artifact.deleted_at.is_(None),
            Artifact.pinned_at.is_(None),
        )
    )
    for artifact, job in rows:
        if deletion.needed_by(session, job) is None:
            size = sum(int(file["size"]) for file in artifact.files)
            yield Expired(kind, artifact.id, project_id, job.id, size)


def _datasets(session: Session, project_id: str, days: float | None) -> Iterator[Expired]:
    if days is None:
        return
    used = (
        select(JobDataset.dataset_id)
        .join(Job, Job.id == JobDataset.job_id)
        .where(Job.status.not_in(TERMINAL) | Job.pinned_at.is_not(None) | (Job.created_at > now() - days * DAY_SECONDS))
    )
    rows = session.scalars(
        select(Dataset).where(
            Dataset.project_id == project_id,
            Dataset.deleted_at.is_(None),
            Dataset.created_at < now() - days * DAY_SECONDS,
            Dataset.id.not_in(used),
        )
    )
    for dataset in rows:
        yield Expired("dataset", dataset.id, project_id, None, dataset.bytes)


def _ended_before(days: float) -> tuple[ColumnElement[bool], ...]:
    return Job.finished_at < now() - days * DAY_SECONDS, Job.status.in_(TERMINAL), Job.pinned_at.is_(None)
