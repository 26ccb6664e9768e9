"""What a project has used, and how much it may use."""

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.answers import Error
from app.api.context import Context, ProjectId
from app.auth import ProjectLimits
from app.jobs import quotas

router = APIRouter(prefix="/v1/usage", tags=["usage"])


class JobUsage(BaseModel):
    """What some jobs have used."""

    jobs: int
    queued_seconds: float
    running_seconds: float
    gpu_seconds: float
    cpu_seconds: float = Field(description="Seconds of jobs that ran without a GPU.")


class UsageAnswer(BaseModel):
    """The usage of a project in a month."""

    object: Literal["usage"] = "usage"
    month: str
    total: JobUsage = Field(
        description="Of the jobs that were created in the month. A running attempt counts once it has ended."
    )
    by: dict[str, JobUsage] | None = Field(description="The same for each value of the metadata key `by`.")
    queued_jobs: int = Field(description="Jobs that wait now.")
    datasets: int
    dataset_bytes: int = Field(description="Bytes of the uploaded files of all datasets.")
    limits: ProjectLimits


@router.get("", response_model=UsageAnswer, responses={422: {"model": Error}})
def usage(
    context: Context,
    project: ProjectId,
    month: Annotated[
        str | None,
        Query(
            pattern=r"^20\d{2}-(0[1-9]|1[0-2])$",
            description="Such as `2026-12`, in UTC. Without it: the current month.",
        ),
    ] = None,
    by: Annotated[str | None, Query(min_length=1, max_length=64, description="A key of the jobs' metadata.")] = None,
) -> UsageAnswer:
    """Get what the jobs of a month have used, what is stored, and the limits of the project."""
    name, start, end = quotas.month_bounds(month)
    with context.database.read() as session:
        count, size = quotas.datasets(session, project)
        parts = None if by is None else quotas.usage_by(session, project, start, end, by)
        return UsageAnswer(
            month=name,
            total=JobUsage(**asdict(quotas.usage(session, project, start, end))),
            by=None if parts is None else {value: JobUsage(**asdict(found)) for value, found in parts.items()},
            queued_jobs=quotas.queued(session, project),
            datasets=count,
            dataset_bytes=size,
            limits=quotas.limits(session, project),
        )
