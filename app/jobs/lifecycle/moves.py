"""One step of the state machine: a guarded UPDATE and its event, in one transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, insert, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.states import TERMINAL, TRANSITIONS, JobStatus
from app.jobs.tables import Event, Job

Data = dict[str, Any]


def move(session: Session, name: str, job_id: str, guard: Sequence[ColumnElement[bool]], **values: Any) -> bool:
    """Take the transition `name` where the guard allows it, set `values`, and record it. False where it does not."""
    transition = TRANSITIONS[name]
    ends = transition.target in TERMINAL
    moved = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == transition.source, *guard)
        .values(
            status=transition.target,
            phase=None,
            owner=None,
            lease_expires_at=None,
            event_seq=Job.event_seq + 1,
            **({"finished_at": now()} if ends else {}),
            **values,
        )
        .returning(Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if moved is None:
        return False
    more = {"error": values["error"]} if values.get("error") else {}
    event = status_event(transition.source, transition.target, transition.actor, transition.reason, **more)
    append(session, job_id, moved.event_seq, moved.attempt, [event])
    return True


def status_event(source: JobStatus | None, target: JobStatus, actor: str, reason: str, **more: Any) -> tuple[str, Data]:
    """The event of a transition."""
    return "status", {"from": source, "to": target, "actor": actor, "reason": reason, **more}


def append(session: Session, job_id: str, first: int, attempt: int, events: Sequence[tuple[str, Data]]) -> None:
    """Write (type, data) events whose ids the UPDATE of the job's counter has just reserved, from `first` on."""
    if events:
        session.execute(
            insert(Event),
            [
                {"job_id": job_id, "seq": first + offset, "type": kind, "attempt": attempt, "data": data}
                for offset, (kind, data) in enumerate(events)
            ],
        )
