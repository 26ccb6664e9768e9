"""One job, top to bottom: claim → prepare → supervise → finish."""

import fcntl
import logging
import shutil
import signal
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.jobs import lifecycle
from app.jobs.lifecycle import Lease, LostLease
from app.jobs.tables import Job
from app.storage import StorageError
from worker import prepare
from worker.heartbeat import Heartbeat
from worker.parts import Parts
from worker.publish import publish
from worker.supervise import Ending, supervise
from worker.training.errors import CheckpointBroken

log = logging.getLogger(__name__)


def run_next(parts: Parts, slot: int) -> bool:
    """Claim the best queued job and run it to the end of this attempt. False when there was none."""
    job = _claim(parts)
    if job is None:
        return False
    lease = Lease(job.id, job.attempt, parts.worker_id)
    log.info("job %s: attempt %s begins", job.id, job.attempt)
    try:
        with _heartbeat(parts, lease) as heartbeat, _workspace(parts, lease) as folder:
            try:
                assignment = prepare.prepare(parts, job, folder, slot)
                ending = supervise(parts, lease, heartbeat, assignment)
                finish(parts, lease, assignment.out_dir, ending)
            except (StorageError, CheckpointBroken, prepare.Unpreparable) as error:
                _fail(parts, lease, prepare.error_of(error), retryable=not isinstance(error, prepare.Unpreparable))
    except LostLease:
        log.warning("job %s: attempt %s is no longer ours; nothing was published", lease.job_id, lease.attempt)
    return True


def finish(parts: Parts, lease: Lease, out_dir: Path, ending: Ending) -> None:
    """Turn the end of a training process into the job's next state. Raises LostLease, StorageError."""
    result = ending.result or {}
    if result.get("status") == "succeeded":
        artifact = publish(parts.storage, lease, out_dir / result["model_path"], "model", result)
        with parts.database.write() as session:
            lifecycle.succeed(session, lease, artifact, result.get("metrics") or {})
        log.info("job %s: succeeded", lease.job_id)
    elif ending.asked == "cancel":
        with parts.database.write() as session:
            lifecycle.finish_cancel(session, lease)
        log.info("job %s: cancelled", lease.job_id)
    elif ending.asked == "timeout":
        _fail(parts, lease, lifecycle.timeout_error(), retryable=False)
    elif ending.asked == "worker_stopping":
        with parts.database.write() as session:
            lifecycle.release(session, lease)
        log.info("job %s: released, because this worker stops", lease.job_id)
    elif result.get("status") == "failed":
        _fail(parts, lease, {**result["error"], "log_tail": ending.log_tail}, retryable=bool(result.get("retryable")))
    else:
        _fail(parts, lease, _crash(ending), retryable=True)


def _claim(parts: Parts) -> Job | None:
    with parts.database.write() as session:
        return lifecycle.claim(session, parts.worker_id, parts.queues, parts.settings.lease_seconds)


def _heartbeat(parts: Parts, lease: Lease) -> Heartbeat:
    return Heartbeat(
        parts.database, lease, every=parts.settings.heartbeat_seconds, lease_seconds=parts.settings.lease_seconds
    )


@contextmanager
def _workspace(parts: Parts, lease: Lease) -> Generator[Path]:
    parts.workspaces.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parts.workspaces, prefix=f"{lease.job_id}-a{lease.attempt}-"))
    # The lock tells `clear_workspaces` that somebody is at work here; a killed worker's goes with it.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_workspaces(workspaces: Path) -> None:
    """Remove what killed workers left on this machine."""
    for lock in workspaces.glob("*/lock"):
        with lock.open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(lock.parent, ignore_errors=True)


def _fail(parts: Parts, lease: Lease, error: dict[str, Any], *, retryable: bool) -> None:
    with parts.database.write() as session:
        status = lifecycle.fail(session, lease, error, retryable=retryable, limits=parts.limits)
    log.warning(
        "job %s: attempt %s failed (%s: %s), now %s",
        lease.job_id,
        lease.attempt,
        error["code"],
        error["message"],
        status,
    )


def _crash(ending: Ending) -> dict[str, Any]:
    return {
        "code": "training_process_died",
        "message": "The training process ended without a result.",
        "hint": "It was killed from outside or crashed in native code; the system's log may know why "
        f"(an out-of-memory kill shows there as {signal.SIGKILL.name}). The next attempt goes on from the newest checkpoint.",
        "log_tail": ending.log_tail,
    }
