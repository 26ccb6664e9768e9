"""The state machine of a job, as data."""

from enum import StrEnum
from typing import NamedTuple


class JobStatus(StrEnum):
    """The status of a job. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class Edge(NamedTuple):
    """One edge of the state machine: who takes it, and the reason that goes into the event log."""

    source: JobStatus
    target: JobStatus
    actor: str
    reason: str


EDGES: dict[str, Edge] = {
    "claim": Edge(JobStatus.QUEUED, JobStatus.RUNNING, "worker", "claimed"),
    "succeed": Edge(JobStatus.RUNNING, JobStatus.SUCCEEDED, "worker", "finished"),
    "retry": Edge(JobStatus.RUNNING, JobStatus.QUEUED, "worker", "attempt_failed"),
    "postpone": Edge(JobStatus.RUNNING, JobStatus.QUEUED, "worker", "no_room_or_storage"),
    "shrink": Edge(JobStatus.RUNNING, JobStatus.QUEUED, "worker", "out_of_memory"),
    "fail": Edge(JobStatus.RUNNING, JobStatus.FAILED, "worker", "failed"),
    "release": Edge(JobStatus.RUNNING, JobStatus.QUEUED, "worker", "worker_stopping"),
    "release_silent": Edge(JobStatus.RUNNING, JobStatus.QUEUED, "worker", "database_was_away"),
    "cancel_running": Edge(JobStatus.RUNNING, JobStatus.CANCELLED, "worker", "cancel_requested"),
    "pause_running": Edge(JobStatus.RUNNING, JobStatus.PAUSED, "worker", "pause_requested"),
    "pause_queued": Edge(JobStatus.QUEUED, JobStatus.PAUSED, "user", "pause_requested"),
    "resume": Edge(JobStatus.PAUSED, JobStatus.QUEUED, "user", "resumed"),
    "cancel_paused": Edge(JobStatus.PAUSED, JobStatus.CANCELLED, "user", "cancel_requested"),
    "cancel_queued": Edge(JobStatus.QUEUED, JobStatus.CANCELLED, "user", "cancel_requested"),
    "reclaim": Edge(JobStatus.RUNNING, JobStatus.QUEUED, "sweeper", "worker_lost"),
    "reclaim_cancelled": Edge(JobStatus.RUNNING, JobStatus.CANCELLED, "sweeper", "cancel_requested"),
    "reclaim_paused": Edge(JobStatus.RUNNING, JobStatus.PAUSED, "sweeper", "pause_requested"),
    "give_up": Edge(JobStatus.RUNNING, JobStatus.FAILED, "sweeper", "worker_lost"),
    "expire_running": Edge(JobStatus.RUNNING, JobStatus.FAILED, "sweeper", "timeout"),
    "expire_queued": Edge(JobStatus.QUEUED, JobStatus.FAILED, "sweeper", "timeout"),
}
"""Every edge there is, by name. `app.jobs.lifecycle` takes them; nothing else writes a status."""
