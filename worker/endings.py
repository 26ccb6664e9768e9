"""What an attempt becomes when its training process has ended without a model."""

import logging
import shutil
import signal
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from app.jobs import lifecycle
from app.jobs.lifecycle import Lease
from app.jobs.states import JobStatus
from app.jobs.tables import Job
from app.specs import JobSpec, Resolved
from worker import out_of_memory
from worker.parts import Parts
from worker.supervise import Ending
from worker.training.errors import DiskFull

log = logging.getLogger(__name__)

End = Callable[[Session, Lease], JobStatus]
"""The last write of an attempt, in a session of its own. Returns what the job now is; raises LostLease."""

POSTPONED_BACKOFFS = 30.0
"""A minute at the default backoff."""
FULL_BELOW_BYTES = 1024**2
"""A disk with less room than this cannot even take a process's last words."""


def without_a_model(parts: Parts, job: Job, ending: Ending) -> End:
    """Choose the last write by why the process ended."""
    if ending.asked in STOPPED:
        return STOPPED[ending.asked]
    if ending.asked == "hung":
        return failure(parts, _hung(parts, ending), retryable=True)
    if (ending.result or {}).get("status") == "stopped" or (ending.result is None and parts.stopping.is_set()):
        # The signal that stops this worker reached the process too, and first.
        return _released
    return _out_of_memory(parts, job, ending) if out_of_memory.is_why(ending) else _failed(parts, ending)


def failure(parts: Parts, error: dict[str, Any], *, retryable: bool) -> End:
    """The end of an attempt that failed: another attempt where that may help and the limits allow, else the end of the job."""

    def end(session: Session, lease: Lease) -> JobStatus:
        _log_failure(lease, error)
        return lifecycle.fail(session, lease, error, retryable=retryable, limits=parts.limits)

    return end


def postponed(parts: Parts, error: dict[str, Any]) -> End:
    """The end of an attempt that met no fault of the job's own: later again, and nothing is counted."""

    def end(session: Session, lease: Lease) -> JobStatus:
        _log_failure(lease, error)
        return lifecycle.postpone(session, lease, error, POSTPONED_BACKOFFS * parts.settings.backoff_seconds)

    return end


def disk_full(parts: Parts, error: dict[str, Any] | None = None) -> End:
    """The end of an attempt that found this worker's disk full: it rests, so that others with room take the jobs."""
    parts.rest.begin(POSTPONED_BACKOFFS * parts.settings.backoff_seconds)
    return postponed(parts, error or DiskFull("the worker's disk is full").as_record())


def _failed(parts: Parts, ending: Ending) -> End:
    if (ending.result or {}).get("status") == "failed":
        result = ending.result or {}
        error = {**result["error"], "log_tail": ending.log_tail}
        if error["code"] == DiskFull.code:
            return disk_full(parts, error)
        return failure(parts, error, retryable=bool(result.get("retryable")))
    if shutil.disk_usage(parts.workspaces).free < FULL_BELOW_BYTES:
        return disk_full(parts)
    return failure(parts, _crash(ending), retryable=True)


def _out_of_memory(parts: Parts, job: Job, ending: Ending) -> End:
    spec = JobSpec.from_stored(job.spec)
    stored = ending.resolved or job.resolved
    resolved = Resolved.read(stored, spec.training.gradient_accumulation) if stored else None
    smaller = out_of_memory.smaller(spec, resolved, ending.phase) if resolved else None
    error = out_of_memory.error(ending, spec, resolved, smaller)
    if smaller is None:
        return failure(parts, error, retryable=False)

    # What a worker of another version settled, and this one does not know, is kept.
    settled = {**(stored or {}), **smaller.model_dump(mode="json")}

    def end(session: Session, lease: Lease) -> JobStatus:
        _log_failure(lease, error)
        return lifecycle.shrink(session, lease, error, settled)

    return end


def _log_failure(lease: Lease, error: dict[str, Any]) -> None:
    log.warning("job %s: attempt %s failed (%s: %s)", lease.job_id, lease.attempt, error["code"], error["message"])


def _cancelled(session: Session, lease: Lease) -> JobStatus:
    lifecycle.finish_cancel(session, lease)
    return JobStatus.CANCELLED


def _released(session: Session, lease: Lease) -> JobStatus:
    return lifecycle.release(session, lease)


def _released_after_silence(session: Session, lease: Lease) -> JobStatus:
    return lifecycle.release(session, lease, was_silent=True)


def _paused(session: Session, lease: Lease) -> JobStatus:
    lifecycle.finish_pause(session, lease)
    return JobStatus.PAUSED


def _timed_out(session: Session, lease: Lease) -> JobStatus:
    lifecycle.time_out(session, lease)
    return JobStatus.FAILED


STOPPED: dict[str, End] = {
    "cancel": _cancelled,
    "pause": _paused,
    "timeout": _timed_out,
    "worker_stopping": _released,
    "database_silent": _released_after_silence,
}
"""What an attempt that was asked to stop becomes."""


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
