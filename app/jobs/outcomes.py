"""How an attempt ended, as its worker or the sweeper saw it. `app.jobs.decision` decides what becomes of the job."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.failures import Failure
from app.jobs.states import JobStatus
from app.jobs.tables import Artifact
from app.specs import JobSpec, Resolved


class StopReason(StrEnum):
    """Why a worker asked its training process to stop."""

    CANCEL = "cancel"
    PAUSE = "pause"
    TIMEOUT = "timeout"
    WORKER_STOPPING = "worker_stopping"
    DATABASE_SILENT = "database_silent"


@dataclass(frozen=True)
class Succeeded:
    """The model is in storage, and its manifest was verified."""

    artifact: Artifact
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Stopped:
    """The training process was asked to stop and is dead."""

    reason: StopReason


@dataclass(frozen=True)
class OutOfMemory:
    """The training process ran out of memory."""

    phase: str
    """What the job was doing."""
    spec: JobSpec
    resolved: Resolved | None
    """None if the attempt ended before its settings were resolved."""
    peak_bytes: int | None = None
    message: str | None = None
    """What the process itself reported; None if it was killed."""
    log_tail: str | None = None


@dataclass(frozen=True)
class Failed:
    """Anything else that ended the attempt."""

    failure: Failure


@dataclass(frozen=True)
class LeaseExpired:
    """The worker stopped renewing its lease. Only the sweeper sees this."""

    attempt: int


@dataclass(frozen=True)
class DeadlinePassed:
    """`resources.timeout` is over, and no worker ended the job in time. Only the sweeper sees this."""

    status: JobStatus
    """Queued or running."""


Outcome = Succeeded | Stopped | OutOfMemory | Failed | LeaseExpired | DeadlinePassed
