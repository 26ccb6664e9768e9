"""One step of the state machine: a guarded UPDATE and its event, in one transaction."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, insert, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.states import TERMINAL, TRANSITIONS, JobStatus
from app.jobs.tables import Event, Job
from app.jobs.usage import counted
from app.webhooks.outbox import announce

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
            **counted(transition),
            **{name: storable(value) for name, value in values.items()},
        )
        .returning(Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if moved is None:
        return False
    more = {"error": values["error"]} if values.get("error") else {}
    event = status_event(transition.source, transition.target, transition.actor, transition.reason, **more)
    append(session, job_id, moved.event_seq, moved.attempt, [event])
    announce(session, job_id, moved.event_seq, transition.target)
    return True


def requeue(session: Session, name: str, job_id: str, guard: Sequence[ColumnElement[bool]], **values: Any) -> bool:
    """Put a running job back into the queue by the transition `name`, unless people want otherwise.

    A wish may arrive while this runs, so it is part of each guard: a cancel beats a pause, and both beat the queue. A
    job must never be queued with a wish, because nobody claims such a job.
    """
    sweeps = TRANSITIONS[name].actor == "sweeper"
    cancelled, paused = ("reclaim_cancelled", "reclaim_paused") if sweeps else ("cancel_running", "pause_running")
    no_cancel = Job.cancel_requested_at.is_(None)
    ways: tuple[tuple[str, list[ColumnElement[bool]], dict[str, Any]], ...] = (
        (name, [no_cancel, Job.pause_requested_at.is_(None)], {}),
        (paused, [no_cancel], {"paused_at": now(), "pause_requested_at": None}),
        (cancelled, [], {}),
    )
    kept = {key: value for key, value in values.items() if key != "available_at"}
    return any(
        move(session, way, job_id, [*guard, *wishes], **(values if way == name else kept), **more)
        for way, wishes, more in ways
    )


def storable(value: Any) -> Any:
    """The same value without what a database cannot hold in text: NUL and lone surrogates become U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode() if not _is_plain(value) else value
    if isinstance(value, dict):
        return {storable(key): storable(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [storable(inner) for inner in cast("list[Any]", value)]
    return value


def _is_plain(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def status_event(source: JobStatus | None, target: JobStatus, actor: str, reason: str, **more: Any) -> tuple[str, Data]:
    """The event of a transition."""
    return "status", {"from": source, "to": target, "actor": actor, "reason": reason, **more}


def append(session: Session, job_id: str, first: int, attempt: int, events: Sequence[tuple[str, Data]]) -> None:
    """Write (type, data) events whose ids the UPDATE of the job's counter has just reserved, from `first` on."""
    if events:
        session.execute(
            insert(Event),
            [
                {"job_id": job_id, "seq": first + offset, "type": kind, "attempt": attempt, "data": storable(data)}
                for offset, (kind, data) in enumerate(events)
            ],
        )
