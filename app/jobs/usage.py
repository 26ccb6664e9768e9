"""How long a job has waited and run, and for how long it has held GPUs, in seconds by the database's clock.

Each UPDATE that changes the status adds the time spent in the previous status. Time in pause is in none of the sums.
"""

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, case, func

from app.db import now
from app.jobs.states import Edge, JobStatus
from app.jobs.tables import Job
from app.jobs.views import JobView


class Usage(NamedTuple):
    """What a job has used so far, in seconds."""

    queued_seconds: float
    running_seconds: float
    gpu_seconds: float


def counted(edge: Edge) -> dict[str, Any]:
    """The columns to set in the UPDATE that takes this edge. They are computed from the row as it was before."""
    left = _lost() if edge.actor == "sweeper" else now()
    values: dict[str, Any] = {}
    if edge.source == JobStatus.QUEUED:
        values["queued_seconds"] = Job.queued_seconds + (now() - func.coalesce(Job.waiting_since, Job.queued_at))
    if edge.source == JobStatus.RUNNING:
        ran = left - Job.started_at
        values["running_seconds"] = Job.running_seconds + ran
        values["gpu_seconds"] = Job.gpu_seconds + ran * Job.gpus
    if edge.target == JobStatus.QUEUED:
        values["waiting_since"] = left
    return values


def usage(job: JobView, at: float) -> Usage:
    """What a job has used at a moment of the database's clock, its present status included."""
    waited = max(0.0, at - (job.waiting_since or job.queued_at)) if job.status == JobStatus.QUEUED else 0.0
    ran = max(0.0, at - job.started_at) if job.status == JobStatus.RUNNING and job.started_at is not None else 0.0
    return Usage(job.queued_seconds + waited, job.running_seconds + ran, job.gpu_seconds + ran * job.gpus)


def _lost() -> ColumnElement[float]:
    # A silent worker held the job until its lease expired. The time after that counts as waiting.
    return case(
        (Job.lease_expires_at < Job.started_at, Job.started_at),
        (Job.lease_expires_at < now(), Job.lease_expires_at),
        else_=now(),
    )
