"""A worker's right to one attempt of one job."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement

from app.jobs.states import JobStatus
from app.jobs.tables import Job


class LostLease(Exception):
    """This job no longer belongs to this worker: stop, kill the training process, publish nothing."""


@dataclass(frozen=True)
class Lease:
    """The right to write about one attempt of one job."""

    job_id: str
    attempt: int
    owner: str

    def guard(self) -> tuple[ColumnElement[bool], ...]:
        """The WHERE of everything that the owner writes."""
        return (
            Job.id == self.job_id,
            Job.status == JobStatus.RUNNING,
            Job.attempt == self.attempt,
            Job.owner == self.owner,
        )


@dataclass(frozen=True)
class Requests:
    """What users requested of a running job."""

    cancel: bool
    pause: bool
