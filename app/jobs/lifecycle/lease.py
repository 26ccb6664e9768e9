"""A worker's right to one attempt of one job, and what limits retrying."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement

from app.jobs.states import JobStatus
from app.jobs.tables import Job
from app.settings import Settings


class LostLease(Exception):
    """This job is no longer this worker's: stop, kill the training process, publish nothing."""


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
class Intents:
    """What people want of a running job."""

    cancel: bool
    pause: bool


@dataclass(frozen=True)
class Limits:
    """When retrying ends."""

    max_failures: int
    max_workers_lost: int
    max_stalled: int
    """Attempts in a row without a new training step: a crash loop."""
    backoff_seconds: float


def limits_of(settings: Settings) -> Limits:
    """The limits that the settings set."""
    return Limits(settings.max_failures, settings.max_workers_lost, settings.max_stalled, settings.backoff_seconds)
