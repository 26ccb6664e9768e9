"""Reads of a job's event log. The data of an event stays the JSON text that the database has."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Text, bindparam, cast, select
from sqlalchemy.orm import Session

from app.db import Prepared
from app.jobs.tables import Event, Job


class Head(NamedTuple):
    """What is asked of a job before its log is read."""

    status: str
    event_seq: int
    """The id of its newest event."""


class LoggedEvent(NamedTuple):
    """One entry of a job's log."""

    seq: int
    type: str
    attempt: int
    data_json: str
    created_at: float


def head(session: Session, project_id: str, job_id: str) -> Head | None:
    """Status and newest event of a job of this project."""
    found = _HEAD.rows(session, job_id=job_id, project_id=project_id)
    return Head(*found[0]) if found else None


def heads(session: Session, job_ids: Sequence[str]) -> dict[str, Head]:
    """Status and newest event of each of these jobs."""
    rows = session.execute(select(Job.id, Job.status, Job.event_seq).where(Job.id.in_(job_ids)))
    return {job_id: Head(status, event_seq) for job_id, status, event_seq in rows.tuples()}


def page(session: Session, job_id: str, *, after: int, limit: int, kind: str | None = None) -> list[LoggedEvent]:
    """The events after an id, in order."""
    values = {"job_id": job_id, "after": after, "limit": limit}
    rows = _PAGE.rows(session, **values) if kind is None else _OF_KIND.rows(session, **values, kind=kind)
    return [LoggedEvent(*row) for row in rows]


_HEAD = Prepared(
    select(Job.status, Job.event_seq).where(
        Job.id == bindparam("job_id"), Job.project_id == bindparam("project_id"), Job.deleted_at.is_(None)
    )
)
_ENTRIES = (
    select(Event.seq, Event.type, Event.attempt, cast(Event.data, Text), Event.created_at)
    .where(Event.job_id == bindparam("job_id"), Event.seq > bindparam("after"))
    .order_by(Event.seq)
    .limit(bindparam("limit"))
)
_PAGE = Prepared(_ENTRIES)
_OF_KIND = Prepared(_ENTRIES.where(Event.type == bindparam("kind")))
