"""What the sweeper may do to a job whose worker, or whose time, is gone. Each is False when it was not so after all."""

from typing import Any

from sqlalchemy import Row, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.lifecycle.lease import Limits
from app.jobs.lifecycle.moves import append, move, requeue
from app.jobs.lifecycle.running import timeout_error
from app.jobs.states import JobStatus
from app.jobs.tables import Job

OWNER_SECONDS = 300.0
"""How long after the deadline the owner has to save a checkpoint and end the job itself."""


def reclaim(session: Session, job: Row[*tuple[Any, ...]], limits: Limits) -> bool:
    """Take a job from a worker whose lease ran out. `job` is a row of `queries.expired_leases`."""
    guard = [Job.attempt == job.attempt, Job.lease_expires_at < now()]
    lost = job.workers_lost + 1
    stalled = 0 if job.furthest_step > job.step_at_claim else job.stalled + 1
    counts = {"workers_lost": lost, "stalled": stalled, "error": _worker_lost(job.attempt)}
    if lost < limits.max_workers_lost and stalled < limits.max_stalled:
        return requeue(session, "reclaim", job.id, guard, **counts)
    if move(session, "reclaim_cancelled", job.id, [*guard, Job.cancel_requested_at.is_not(None)], **counts):
        return True
    return move(session, "give_up", job.id, guard, **counts)


def expire(session: Session, job_id: str) -> bool:
    """Fail a job whose deadline passed between attempts, or so long ago that its worker should have seen it."""
    if move(session, "expire_queued", job_id, [Job.deadline_at < now()], error=timeout_error()):
        return True
    overdue = Job.deadline_at < now() - OWNER_SECONDS
    return move(session, "expire_running", job_id, [overdue], error=timeout_error())


def note(session: Session, job_id: str, seen: int, data: dict[str, Any]) -> bool:
    """Append a `note` to the log of a queued job, unless anything was appended since its event `seen`."""
    noted = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.QUEUED, Job.event_seq == seen)
        .values(event_seq=Job.event_seq + 1)
        .returning(Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if noted is None:
        return False
    append(session, job_id, noted.event_seq, noted.attempt, [("note", data)])
    return True


def _worker_lost(attempt: int) -> dict[str, Any]:
    return {
        "code": "worker_lost",
        "message": f"The worker of attempt {attempt} fell silent.",
        "hint": "The next attempt goes on from the newest checkpoint. See the workers' own logs for why it died.",
    }
