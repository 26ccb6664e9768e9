"""What the sweeper may do to a job whose worker is lost or whose deadline has passed.

Each returns whether the job was changed.
"""

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs import events
from app.jobs.decision import DEADLINE_GRACE_SECONDS, RetryPolicy
from app.jobs.lifecycle.transitions import append, conclude
from app.jobs.outcomes import DeadlinePassed, LeaseExpired
from app.jobs.states import JobStatus
from app.jobs.tables import Job


def reclaim(session: Session, job_id: str, attempt: int, policy: RetryPolicy) -> bool:
    """Take a job away from a worker whose lease has expired."""
    guard = [Job.status == JobStatus.RUNNING, Job.attempt == attempt, Job.lease_expires_at < now()]
    return conclude(session, job_id, guard, LeaseExpired(attempt), policy) is not None


def expire(session: Session, job_id: str, policy: RetryPolicy) -> bool:
    """Fail a job whose deadline passed while it was queued, or so long ago that its worker should have ended it."""
    return any(
        conclude(session, job_id, [Job.status == status, overdue], DeadlinePassed(status), policy) is not None
        for status, overdue in (
            (JobStatus.QUEUED, Job.deadline_at < now()),
            (JobStatus.RUNNING, Job.deadline_at < now() - DEADLINE_GRACE_SECONDS),
        )
    )


def note(session: Session, job_id: str, seen: int, message: str, engine: str) -> bool:
    """Append a note about the job's engine to the log of a queued job, unless its log grew since event `seen`."""
    noted = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.QUEUED, Job.event_seq == seen)
        .values(event_seq=Job.event_seq + 1)
        .returning(Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if noted is None:
        return False
    append(session, job_id, noted.event_seq, noted.attempt, [events.note(message, engine)])
    return True
