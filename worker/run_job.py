"""One job, top to bottom: claim → prepare → supervise → finish."""

import logging
import time
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.db import DATABASE_AWAY
from app.jobs import lifecycle
from app.jobs.lifecycle import Lease, LostLease
from app.jobs.states import JobStatus
from app.jobs.tables import Job
from app.storage import StorageError
from app.workspaces import workspace
from worker import prepare
from worker.endings import End, disk_full, failure, postponed, without_a_model
from worker.heartbeat import Heartbeat
from worker.parts import Parts
from worker.publish import publish
from worker.supervise import supervise
from worker.training.errors import NO_ROOM, CheckpointBroken

log = logging.getLogger(__name__)

END_RETRY_SECONDS = 2.0


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
    guard matches nothing. A worker that is to stop waits no longer than its grace.
    """
    heartbeat.expect_the_end()
    asked_to_stop_at = None
    while True:
        try:
            with parts.database.write() as session:
                return end(session, lease)
        except DATABASE_AWAY as error:
            log.warning("job %s: its end waits, the database does not answer: %s", lease.job_id, error)
            if parts.stopping.is_set():
                asked_to_stop_at = asked_to_stop_at or time.monotonic()
            grace_is_over = asked_to_stop_at and time.monotonic() - asked_to_stop_at > parts.settings.stop_grace_seconds
            if heartbeat.lost.wait(END_RETRY_SECONDS) or grace_is_over:
                raise LostLease from error


def _attempt(parts: Parts, job: Job, lease: Lease, heartbeat: Heartbeat, folder: Path, slot: int) -> End:
    try:
        assignment = prepare.prepare(parts, job, folder, slot)
        ending = supervise(parts, lease, heartbeat, assignment)
        if (ending.result or {}).get("status") == "succeeded":
            return _publish(parts, lease, assignment.out_dir, ending.result or {})
    except prepare.Unpreparable as error:
        return failure(parts, prepare.error_of(error), retryable=False)
    except StorageError as error:
        log.warning("job %s: attempt %s ends on storage", lease.job_id, lease.attempt, exc_info=error)
        return postponed(parts, prepare.error_of(error))
    except CheckpointBroken as error:
        log.warning("job %s: attempt %s fails on storage", lease.job_id, lease.attempt, exc_info=error)
        return failure(parts, prepare.error_of(error), retryable=True)
    except LostLease:
        raise
    except Exception as error:  # noqa: BLE001 - it is logged there
        return _end_of(parts, lease, error)
    return without_a_model(parts, job, ending)


def _publish(parts: Parts, lease: Lease, out_dir: Path, result: dict[str, Any]) -> End:
    artifact = publish(parts.storage, lease, out_dir / result["model_path"], "model", result)

    def end(session: Session, lease: Lease) -> JobStatus:
        lifecycle.succeed(session, lease, artifact, result.get("metrics") or {})
        return JobStatus.SUCCEEDED

    return end


def _claim(parts: Parts) -> Job | None:
    features = parts.offer.features()
    with parts.database.write() as session:
        return lifecycle.claim(session, parts.worker_id, parts.queues, parts.settings.lease_seconds, features)


def _heartbeat(parts: Parts, lease: Lease) -> Heartbeat:
    return Heartbeat(
        parts.database, lease, every=parts.settings.heartbeat_seconds, lease_seconds=parts.settings.lease_seconds
    )


def _end_of(parts: Parts, lease: Lease, error: Exception) -> End:
    """The end of an attempt that raised. Its process is dead: better an attempt that says why than a lease that runs out."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return disk_full(parts)
    log.error("job %s: attempt %s ended in a way nobody foresaw", lease.job_id, lease.attempt, exc_info=error)
    told = {
        "code": "internal_error",
        "message": f"The worker failed: {type(error).__name__}.",
        "hint": "The worker's log has the traceback. The job is tried again by itself.",
    }
    return failure(parts, told, retryable=True)
