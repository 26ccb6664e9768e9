"""One job, top to bottom: claim → prepare → supervise → finish."""

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from app.jobs import lifecycle
from app.jobs.lifecycle import Lease, LostLease
from app.jobs.states import JobStatus
from app.jobs.tables import Job
from app.storage import StorageError
from app.workspaces import workspace
from worker import prepare
from worker.heartbeat import Heartbeat
from worker.parts import Parts
from worker.publish import publish
from worker.supervise import Ending, supervise
from worker.training.errors import CheckpointBroken

log = logging.getLogger(__name__)

END_RETRY_SECONDS = 2.0

End = Callable[[Session, Lease], JobStatus]
"""The last write of an attempt, in a session of its own. Returns what the job now is; raises LostLease."""


def run_next(parts: Parts, slot: int) -> bool:
    """Claim the best queued job and run it to the end of this attempt. False when there was none.

    Raises OSError when this machine has no usable scratch space; then no job was claimed.
    """
    # Before the claim: a worker that cannot work must not take jobs away from those that can.
    with workspace(parts.workspaces) as folder:
        job = _claim(parts)
        if job is None:
            return False
        lease = Lease(job.id, job.attempt, parts.worker_id)
        log.info("job %s: attempt %s begins", job.id, job.attempt)
        try:
            with _heartbeat(parts, lease) as heartbeat:
                end = _attempt(parts, job, lease, heartbeat, folder, slot)
                status = _write_end(parts, lease, heartbeat, end)
            log.info("job %s: attempt %s is over, the job is %s", lease.job_id, lease.attempt, status)
        except LostLease:
            log.warning("job %s: attempt %s is no longer ours; nothing was published", lease.job_id, lease.attempt)
        return True


def _write_end(parts: Parts, lease: Lease, heartbeat: Heartbeat, end: End) -> JobStatus:
    """The last write, tried again while the database is away: the lease is still renewed meanwhile.

    A commit whose outcome is unknown needs no care of its own: if it took effect, the next try finds that the
    guard matches nothing.
    """
    heartbeat.expect_the_end()
    while True:
        try:
            with parts.database.write() as session:
                return end(session, lease)
        except (OperationalError, InterfaceError) as error:
            log.warning("job %s: its end waits, the database does not answer: %s", lease.job_id, error)
            if heartbeat.lost.wait(END_RETRY_SECONDS):
                raise LostLease from error


def _attempt(parts: Parts, job: Job, lease: Lease, heartbeat: Heartbeat, folder: Path, slot: int) -> End:
    try:
        assignment = prepare.prepare(parts, job, folder, slot)
        ending = supervise(parts, lease, heartbeat, assignment)
        if (ending.result or {}).get("status") == "succeeded":
            return _publish(parts, lease, assignment.out_dir, ending.result or {})
    except prepare.Unpreparable as error:
        return _failure(parts, prepare.error_of(error), retryable=False)
    except (StorageError, CheckpointBroken) as error:
        log.warning("job %s: attempt %s fails on storage", lease.job_id, lease.attempt, exc_info=error)
        return _failure(parts, prepare.error_of(error), retryable=True)
    except LostLease:
        raise
    except Exception as error:
        # The process is dead by now. Better an attempt that says why than a lease that runs out.
        log.exception("job %s: attempt %s ended in a way nobody foresaw", lease.job_id, lease.attempt)
        return _failure(parts, _unforeseen(error), retryable=True)
    return _end_without_a_model(parts, ending)


def _publish(parts: Parts, lease: Lease, out_dir: Path, result: dict[str, Any]) -> End:
    artifact = publish(parts.storage, lease, out_dir / result["model_path"], "model", result)

    def end(session: Session, lease: Lease) -> JobStatus:
        lifecycle.succeed(session, lease, artifact, result.get("metrics") or {})
        return JobStatus.SUCCEEDED

    return end


def _end_without_a_model(parts: Parts, ending: Ending) -> End:
    if ending.asked in STOPPED:
        return STOPPED[ending.asked]
    if ending.asked == "hung":
        return _failure(parts, _hung(parts, ending), retryable=True)
    if (ending.result or {}).get("status") == "failed":
        result = ending.result or {}
        return _failure(
            parts, {**result["error"], "log_tail": ending.log_tail}, retryable=bool(result.get("retryable"))
        )
    return _failure(parts, _crash(ending), retryable=True)


def _failure(parts: Parts, error: dict[str, Any], *, retryable: bool) -> End:
    def end(session: Session, lease: Lease) -> JobStatus:
        log.warning("job %s: attempt %s failed (%s: %s)", lease.job_id, lease.attempt, error["code"], error["message"])
        return lifecycle.fail(session, lease, error, retryable=retryable, limits=parts.limits)

    return end


def _cancelled(session: Session, lease: Lease) -> JobStatus:
    lifecycle.finish_cancel(session, lease)
    return JobStatus.CANCELLED


def _released(session: Session, lease: Lease) -> JobStatus:
    lifecycle.release(session, lease)
    return JobStatus.QUEUED


def _paused(session: Session, lease: Lease) -> JobStatus:
    lifecycle.finish_pause(session, lease)
    return JobStatus.PAUSED


def _timed_out(session: Session, lease: Lease) -> JobStatus:
    lifecycle.time_out(session, lease)
    return JobStatus.FAILED


STOPPED: dict[str, End] = {"cancel": _cancelled, "pause": _paused, "timeout": _timed_out, "worker_stopping": _released}
"""What an attempt that was asked to stop becomes."""


def _claim(parts: Parts) -> Job | None:
    with parts.database.write() as session:
        return lifecycle.claim(session, parts.worker_id, parts.queues, parts.settings.lease_seconds)


def _heartbeat(parts: Parts, lease: Lease) -> Heartbeat:
    return Heartbeat(
        parts.database, lease, every=parts.settings.heartbeat_seconds, lease_seconds=parts.settings.lease_seconds
    )


def _unforeseen(error: Exception) -> dict[str, Any]:
    return {
        "code": "internal_error",
        "message": f"The worker failed: {type(error).__name__}.",
        "hint": "The worker's log has the traceback. The job is tried again by itself.",
    }


def _hung(parts: Parts, ending: Ending) -> dict[str, Any]:
    return {
        "code": "training_hung",
        "message": f"The training process reported nothing for {parts.settings.hung_seconds:.0f} s and was killed.",
        "hint": "The next attempt goes on from the newest checkpoint. Where one step truly takes so long, raise "
        "TUNESMITH_HUNG_SECONDS on the worker.",
        "log_tail": ending.log_tail,
    }


def _crash(ending: Ending) -> dict[str, Any]:
    return {
        "code": "training_process_died",
        "message": "The training process ended without a result.",
        "hint": "It was killed from outside or crashed in native code; the system's log may know why "
        f"(an out-of-memory kill shows there as {signal.SIGKILL.name}). The next attempt goes on from the newest checkpoint.",
        "log_tail": ending.log_tail,
    }
