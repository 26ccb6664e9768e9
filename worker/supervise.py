"""Watches one training process from start to end.

It relays the reports, uploads the checkpoints, carries out cancels and pauses, and enforces the deadline.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from app.jobs.lifecycle import Lease, LostLease
from app.jobs.outcomes import StopReason
from worker.context import WorkerContext
from worker.heartbeat import Heartbeat
from worker.memory import MemoryWatch
from worker.processes import TrainingProcess
from worker.relay import Relay
from worker.training.reports import FILE_NAME
from worker.uploads import CheckpointUploads

log = logging.getLogger(__name__)

Record = dict[str, Any]
RELAY_SECONDS = 0.5
FIRST_RELAY_SECONDS = 0.1
"""Until the first step. Whoever waits for a job looks closest at its beginning."""
RELAY_RETRY_SECONDS = 10.0
WATCH_SECONDS = 0.2
UPLOAD_PATIENCE_SECONDS = 300.0
"""How long the last checkpoints of a process that has ended may take to upload.

After that, the job continues without them.
"""


class KillReason(StrEnum):
    """Why a training process was killed without being asked to stop."""

    HUNG = "hung"
    """A hung process does not react to SIGTERM."""
    LOST = "lost"
    """A worker that lost the job may publish nothing."""


@dataclass(frozen=True)
class ProcessOutcome:
    """How a training process ended."""

    result: Record | None
    """Its `result` record; None if it died without one."""
    asked: StopReason | KillReason | None
    """Why the process was stopped; None if it ended by itself."""
    log_tail: str
    phase: str = "preparing"
    """What the process was doing."""
    resolved: Record | None = None
    """What this attempt resolved; None if an earlier attempt had."""
    peak_bytes: int | None = None
    """The peak of its resident memory that was observed."""
    killed_for_memory: bool = False
    """Whether the kernel killed a process in its control group because memory ran out."""


@dataclass(frozen=True)
class Assignment:
    """The request of a training process, with everything it needs on this machine."""

    request_file: Path
    out_dir: Path
    keep_checkpoints: int
    seconds_left: float
    """Until the job's deadline."""
    gpu: str | None
    """Its name in CUDA_VISIBLE_DEVICES; None for a run on the CPU."""


def supervise(context: WorkerContext, lease: Lease, heartbeat: Heartbeat, assignment: Assignment) -> ProcessOutcome:
    """Run one training process to its end.

    Afterwards nothing of it is left, and everything it reported has been relayed. Raises LostLease if the job was given
    to another worker. The process is dead then, too.
    """
    output = assignment.out_dir / "output.log"
    uploads = CheckpointUploads(
        context.database, context.storage, lease, assignment.out_dir, assignment.keep_checkpoints
    )
    relay = Relay(context.database, lease, assignment.out_dir / FILE_NAME, output, _take_checkpoints(uploads))
    stopped_relaying = threading.Event()
    carrier = threading.Thread(
        target=_carry, args=(relay, heartbeat, stopped_relaying), name=f"relay-{lease.job_id}", daemon=True
    )
    patience = 0.0
    try:
        process = context.processes.start(assignment.request_file, output, assignment.gpu)
        try:
            memory = MemoryWatch(process.pid)
            device = f"GPU {assignment.gpu}" if assignment.gpu else "CPU"
            log.info("job %s: attempt %s trains in process %s on %s", lease.job_id, lease.attempt, process.pid, device)
            carrier.start()
            silence = _Silence(context.settings.hung_seconds, assignment.out_dir / FILE_NAME, output)
            asked = _watch(context, process, heartbeat, silence, memory, assignment.seconds_left)
        finally:
            process.close()
            stopped_relaying.set()
            if carrier.is_alive():
                carrier.join()
        _drain(context, relay, heartbeat)
        patience = 0.0 if heartbeat.lost.is_set() else UPLOAD_PATIENCE_SECONDS
    finally:
        uploads.finish(patience)
    if heartbeat.lost.is_set():
        raise LostLease
    return ProcessOutcome(
        relay.result,
        asked,
        relay.log_tail(),
        relay.phase,
        relay.resolved,
        memory.peak_bytes,
        killed_for_memory=memory.kernel_killed(),
    )


class _Silence:
    """Whether nothing was written to any of these files, and none was touched, for too long."""

    def __init__(self, limit: float, *paths: Path) -> None:
        self._limit, self._paths = limit, paths
        self._seen: list[tuple[int, int]] = []
        self._since = time.monotonic()

    def is_too_long(self) -> bool:
        found = [path.stat() for path in self._paths if path.exists()]
        seen = [(file.st_size, file.st_mtime_ns) for file in found]
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since > self._limit


def _watch(
    context: WorkerContext,
    process: TrainingProcess,
    heartbeat: Heartbeat,
    silence: _Silence,
    memory: MemoryWatch,
    seconds_left: float,
) -> StopReason | KillReason | None:
    deadline = time.monotonic() + seconds_left
    while not process.wait(WATCH_SECONDS):
        memory.sample()
        asked = KillReason.HUNG if silence.is_too_long() else _reason_to_stop(context, heartbeat, deadline)
        if isinstance(asked, KillReason):
            process.kill()
            return asked
        if asked is not None:
            log.info("process %s is asked to stop: %s", process.pid, asked)
            process.ask_to_stop()
            _kill_after_grace(context, process, heartbeat)
            return asked
    return None


def _reason_to_stop(context: WorkerContext, heartbeat: Heartbeat, deadline: float) -> StopReason | KillReason | None:
    if heartbeat.lost.is_set():
        return KillReason.LOST
    if heartbeat.silent_for() > context.settings.database_patience_seconds:
        return StopReason.DATABASE_SILENT
    if heartbeat.cancel.is_set():
        return StopReason.CANCEL
    if time.monotonic() > deadline:
        return StopReason.TIMEOUT
    if heartbeat.pause.is_set():
        return StopReason.PAUSE
    return StopReason.WORKER_STOPPING if context.stopping.is_set() else None


def _kill_after_grace(context: WorkerContext, process: TrainingProcess, heartbeat: Heartbeat) -> None:
    end = time.monotonic() + context.settings.stop_grace_seconds
    while time.monotonic() < end and not heartbeat.lost.is_set():
        if process.wait(WATCH_SECONDS):
            return
    log.warning("process %s did not stop within its grace and gets %s", process.pid, signal.SIGKILL.name)
    process.kill()


def _take_checkpoints(uploads: CheckpointUploads) -> Callable[[Record], None]:
    def take(record: Record) -> None:
        if record["type"] == "checkpoint":
            uploads.add(record)

    return take


def _carry(relay: Relay, heartbeat: Heartbeat, stopped: threading.Event) -> None:
    while not stopped.wait(RELAY_SECONDS if relay.has_progress else FIRST_RELAY_SECONDS):
        try:
            relay.forward()
        except LostLease:
            heartbeat.lost.set()
            return
        except Exception:
            # An error that persists occurs again in `_drain` after the end of the process, and then fails the attempt.
            log.exception("job %s: reports could not be relayed; trying again", relay.job_id)
            stopped.wait(RELAY_RETRY_SECONDS)


def _drain(context: WorkerContext, relay: Relay, heartbeat: Heartbeat) -> None:
    # The process is dead, so its files no longer grow, and one successful pass is enough. A worker that is stopping
    # gives up sooner on a database that stays unreachable.
    asked_at = None
    while not heartbeat.lost.is_set() and not relay.forward():
        if heartbeat.silent_for() > context.settings.database_patience_seconds + UPLOAD_PATIENCE_SECONDS:
            heartbeat.lost.set()
        if context.stopping.is_set():
            asked_at = asked_at or time.monotonic()
            if time.monotonic() - asked_at > context.settings.stop_grace_seconds:
                heartbeat.lost.set()
        time.sleep(RELAY_SECONDS)
