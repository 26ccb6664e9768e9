"""The open resources of a worker process."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from app.datasets.local_copy import LocalCopies
from app.db import Database
from app.jobs.decision import RetryPolicy
from app.settings import Settings
from app.storage import Storage
from worker.gpus import FreeGpus
from worker.offer import Offer
from worker.processes import TrainingProcesses


class Rest:
    """A period in which this worker claims no job."""

    def __init__(self) -> None:
        self._over_at = 0.0

    def begin(self, seconds: float) -> None:
        """Rest from now on for this many seconds."""
        self._over_at = time.monotonic() + seconds

    @property
    def is_on(self) -> bool:
        """Whether it is not over yet."""
        return time.monotonic() < self._over_at


@dataclass(frozen=True)
class WorkerContext:
    """The open resources of one worker."""

    worker_id: str
    queues: tuple[str, ...]
    """The queues that it claims jobs from: values of `Job.queue`."""
    offer: Offer
    """What it can run; it claims only jobs whose features are among these."""
    settings: Settings
    policy: RetryPolicy
    database: Database
    storage: Storage
    copies: LocalCopies
    processes: TrainingProcesses
    workspaces: Path
    threads_a_slot: int
    memory_bytes: int | None
    """What each training process may allocate; None without a limit."""
    gpus: FreeGpus
    rest: Rest = field(default_factory=Rest)
    """On while this worker's disk is full."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when this worker shall save checkpoints, release its jobs and exit."""
