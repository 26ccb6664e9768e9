"""What a project has used, and whether its limits leave room for one more job or dataset."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.auth import Access, ProjectLimits
from app.auth.tables import Project
from app.datasets.tables import Dataset
from app.errors import Forbidden, QuotaExceeded
from app.jobs.states import JobStatus
from app.jobs.tables import Job, JobMetadata


@dataclass(frozen=True)
class Usage:
    """What the jobs of a month have used. The running attempt of a job counts once it has ended."""

    jobs: int
    queued_seconds: float
    running_seconds: float
    gpu_seconds: float
    cpu_seconds: float
    """Of attempts without a GPU."""


def month_bounds(month: str | None) -> tuple[str, float, float]:
    """A month such as `2026-12`, by default the current one in UTC, and its first moment and the next month's. Raises ValueError."""
    first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC) if month else datetime.now(UTC)
    first = first.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    year, number = divmod(first.year * 12 + first.month, 12)
    return first.strftime("%Y-%m"), first.timestamp(), first.replace(year=year, month=number + 1).timestamp()


def usage(session: Session, project_id: str, start: float, end: float) -> Usage:
    """What the jobs that were created in this period have used."""
    return Usage(*session.execute(select(*_sums()).where(*_created(project_id, start, end))).one())


def usage_by(session: Session, project_id: str, start: float, end: float, key: str) -> dict[str, Usage]:
    """The same for each value of a key of the jobs' metadata."""
    rows = session.execute(
        select(JobMetadata.value, *_sums())
        .join(JobMetadata, JobMetadata.job_id == Job.id)
        .where(*_created(project_id, start, end), JobMetadata.key == key)
        .group_by(JobMetadata.value)
        .order_by(JobMetadata.value)
    )
    return {value: Usage(*sums) for value, *sums in rows}


def datasets(session: Session, project_id: str) -> tuple[int, int]:
    """How many datasets the project has, and the bytes of their uploaded files."""
    count, size = session.execute(
        select(func.count(), func.coalesce(func.sum(Dataset.bytes), 0)).where(
            Dataset.project_id == project_id, Dataset.deleted_at.is_(None)
        )
    ).one()
    # PostgreSQL sums to a decimal.
    return count, int(size)


def queued(session: Session, project_id: str) -> int:
    """How many jobs of the project wait."""
    waiting = select(func.count()).where(Job.project_id == project_id, Job.status == JobStatus.QUEUED)
    return session.scalar(waiting) or 0


def limits(session: Session, project_id: str) -> ProjectLimits:
    """The limits of a project."""
    stored = session.scalar(select(Project.limits).where(Project.id == project_id))
    return ProjectLimits.model_validate(stored or {})


def check_job(read: Callable[[], AbstractContextManager[Session]], access: Access, priority: int) -> None:
    """Raises Forbidden for a priority above the key's ceiling, and QuotaExceeded if the project has no room for a job.

    `read` opens a session, if there is a limit to look up.
    """
    if priority > access.priority_ceiling:
        raise Forbidden(
            f"'priority' must be at most {access.priority_ceiling} with this key",
            param="priority",
            code="priority_too_high",
            details={"ceiling": access.priority_ceiling},
        )
    found = access.limits
    if found.queued_jobs is None and found.gpu_seconds_per_month is None and found.cpu_seconds_per_month is None:
        return
    with read() as session:
        _check_used(session, access.project_id, found)


def check_dataset(session: Session, project_id: str, size: int) -> None:
    """Raises QuotaExceeded if the project has no room for a dataset of this many bytes."""
    found = limits(session, project_id)
    if found.datasets is None and found.dataset_bytes is None:
        return
    count, total = datasets(session, project_id)
    _check("datasets", found.datasets, count)
    _check("dataset_bytes", found.dataset_bytes, total, size)


def _check_used(session: Session, project_id: str, found: ProjectLimits) -> None:
    if found.queued_jobs is not None:
        _check("queued_jobs", found.queued_jobs, queued(session, project_id))
    if found.gpu_seconds_per_month is not None or found.cpu_seconds_per_month is not None:
        used = usage(session, project_id, *month_bounds(None)[1:])
        _check("gpu_seconds_per_month", found.gpu_seconds_per_month, used.gpu_seconds)
        _check("cpu_seconds_per_month", found.cpu_seconds_per_month, used.cpu_seconds)


def _check(name: str, limit: int | None, used: float, wanted: int = 1) -> None:
    if limit is None or used + wanted <= limit:
        return
    spent = math.ceil(used)
    details = {"quota": name, "limit": limit, "used": spent, "free": max(0, limit - spent)}
    raise QuotaExceeded(
        f"this project may have {limit:,} {name.replace('_', ' ')}, and has used {spent:,}", details=details
    )


def _sums() -> tuple[Any, ...]:
    gpu = func.coalesce(func.sum(Job.gpu_seconds), 0.0)
    without = func.coalesce(func.sum(Job.running_seconds).filter(Job.gpu_seconds == 0), 0.0)
    waited, ran = (func.coalesce(func.sum(column), 0.0) for column in (Job.queued_seconds, Job.running_seconds))
    return func.count(Job.id), waited, ran, gpu, without


def _created(project_id: str, start: float, end: float) -> tuple[Any, ...]:
    return Job.project_id == project_id, Job.created_at >= start, Job.created_at < end
