"""What users may request of a job at any time: cancel, pause, resume. Each is False if the state does not allow it."""

from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs import events
from app.jobs.lifecycle.transitions import append, take
from app.jobs.states import EDGES, TERMINAL, JobStatus
from app.jobs.tables import Job

TRIES = 10
"""A job may change its state between two UPDATEs of ours; it does not do so ten times in a row."""


def cancel(session: Session, job_id: str) -> bool:
    """Cancel a queued or paused job at once, or request that a running one stops."""
    for _ in range(TRIES):
        if any(
            take(session, EDGES[name], job_id, cancel_requested_at=now()) for name in ("cancel_queued", "cancel_paused")
        ):
            return True
        if _ask(session, job_id, "cancel", cancel_requested_at=now()):
            return True
        if _status(session, job_id) in TERMINAL:
            return False
    return False


def pause(session: Session, job_id: str) -> bool:
    """Pause a queued job at once, or request that a running one saves a checkpoint and frees its slot."""
    for _ in range(TRIES):
        if take(session, EDGES["pause_queued"], job_id):
            return True
        if _ask(session, job_id, "pause", pause_requested_at=now()):
            return True
        status = _status(session, job_id)
        if status == JobStatus.PAUSED:
            return True
        if status in TERMINAL:
            return False
    return False


def resume(session: Session, job_id: str) -> bool:
    """Put a paused job back into the queue. The time that it was paused does not count against its deadline."""
    return take(
        session,
        EDGES["resume"],
        job_id,
        available_at=now(),
        queued_at=now(),
        paused_at=None,
        deadline_at=Job.deadline_at + (now() - Job.paused_at),
    )


def _ask(session: Session, job_id: str, intent: Literal["cancel", "pause"], **values: Any) -> bool:
    """Record a request about a running job. A second request changes nothing. False if the job does not run."""
    column = Job.cancel_requested_at if intent == "cancel" else Job.pause_requested_at
    running = (Job.id == job_id, Job.status == JobStatus.RUNNING)
    asked = session.execute(
        update(Job)
        .where(*running, column.is_(None))
        .values(event_seq=Job.event_seq + 1, **values)
        .returning(Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if asked is None:
        return session.scalar(select(Job.id).where(*running, column.is_not(None))) is not None
    append(session, job_id, asked.event_seq, asked.attempt, [events.requested(intent)])
    return True


def _status(session: Session, job_id: str) -> str | None:
    return session.scalar(select(Job.status).where(Job.id == job_id))
