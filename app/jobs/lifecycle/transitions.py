"""One step of the state machine: a guarded UPDATE and its event, in one transaction."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, insert, select, update
from sqlalchemy.orm import Session

from app.db import Prepared, now
from app.jobs import events
from app.jobs.decision import Counts, History, RetryPolicy, Transition, decide
from app.jobs.events import Entry
from app.jobs.outcomes import Outcome
from app.jobs.sanitized import sanitized
from app.jobs.states import TERMINAL, Edge, JobStatus
from app.jobs.tables import Event, Job
from app.jobs.usage import counted
from app.webhooks.outbox import announce


def conclude(
    session: Session, job_id: str, guard: Sequence[ColumnElement[bool]], outcome: Outcome, policy: RetryPolicy
) -> Transition | None:
    """Decide what becomes of a job whose attempt ended, and write it. None if the guard does not match."""
    history = _history(session, job_id, guard)
    if history is None:
        return None
    transition = decide(outcome, history, policy)
    values = _values(transition)
    if transition.resolved is not None:
        # Fields that a worker of another version resolved, and this version does not know, are kept.
        stored = session.scalar(select(Job.resolved).where(Job.id == job_id)) or {}
        values["resolved"] = {**stored, **transition.resolved.model_dump(mode="json")}
    return transition if take(session, transition.edge, job_id, guard, **values) else None


def take(session: Session, edge: Edge, job_id: str, guard: Sequence[ColumnElement[bool]] = (), **values: Any) -> bool:
    """Take an edge of the state machine if the guard matches, set `values`, and record it.

    False if it does not match.
    """
    taken = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == edge.source, *guard)
        .values(
            status=edge.target,
            phase=None,
            owner=None,
            lease_expires_at=None,
            event_seq=Job.event_seq + 1,
            **({"finished_at": now()} if edge.target in TERMINAL else {}),
            **counted(edge),
            **({"paused_at": now(), "pause_requested_at": None} if edge.target == JobStatus.PAUSED else {}),
            **{name: sanitized(value) for name, value in values.items()},
        )
        .returning(Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        return False
    append(session, job_id, taken.event_seq, taken.attempt, [events.status(edge, error=values.get("error"))])
    announce(session, job_id, taken.event_seq, edge.target)
    return True


def append(session: Session, job_id: str, first: int, attempt: int, entries: Sequence[Entry]) -> None:
    """Write events whose ids the UPDATE of the job's counter has just reserved, from `first` on."""
    for seq, entry in enumerate(entries, first):
        data = json.dumps(sanitized(entry.data))
        _EVENT.run(session, job_id=job_id, seq=seq, type=entry.type.value, attempt=attempt, data=data)


def _history(session: Session, job_id: str, guard: Sequence[ColumnElement[bool]]) -> History | None:
    # The lock blocks requests until the transition is written. A request in between would be lost.
    row = session.execute(
        select(
            Job.failures,
            Job.workers_lost,
            Job.stalled,
            Job.furthest_step,
            Job.step_at_claim,
            Job.cancel_requested_at,
            Job.pause_requested_at,
        )
        .where(Job.id == job_id, *guard)
        .with_for_update(key_share=True)
    ).one_or_none()
    if row is None:
        return None
    return History(
        Counts(row.failures, row.workers_lost, row.stalled),
        furthest_step=row.furthest_step,
        step_at_claim=row.step_at_claim,
        cancel_requested=row.cancel_requested_at is not None,
        pause_requested=row.pause_requested_at is not None,
    )


def _values(transition: Transition) -> dict[str, Any]:
    counts = transition.counts
    values: dict[str, Any] = {
        "failures": counts.failures,
        "workers_lost": counts.workers_lost,
        "stalled": counts.stalled,
    }
    if transition.failure is not None:
        values["error"] = transition.failure.to_json()
    if transition.wait_seconds is not None:
        values["available_at"] = now() + transition.wait_seconds
    if transition.success is not None:
        values |= {
            "artifact_id": transition.success.artifact.id,
            "metrics": transition.success.metrics,
            "error": None,
        }
    return values


_EVENT = Prepared(
    insert(Event).values({name: bindparam(name) for name in ("job_id", "seq", "type", "attempt", "data")})
)
