"""Reads of the text that training processes wrote, in the pieces that the worker has stored."""

from typing import NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.jobs.tables import LogChunk


class Output(NamedTuple):
    """A part of an attempt's output."""

    attempt: int | None
    text: str
    next: int
    """Where what follows begins, also if it is not there yet."""


def tail(session: Session, job_id: str, *, attempt: int | None, limit: int, start: int = 0) -> Output:
    """The last `limit` characters of an attempt's output from `start` on, of the newest attempt that has any if None."""
    chosen = _attempt(session, job_id, attempt)
    rows = session.execute(
        _pieces(job_id, chosen)
        .where(LogChunk.start >= start)
        .order_by(LogChunk.start.desc())
        .execution_options(yield_per=16)
    ).tuples()
    pieces: list[str] = []
    size = following = 0
    for begin, text in rows:
        following = max(following, begin + 1)
        pieces.append(text)
        size += len(text)
        if size >= limit:
            break
    rows.close()
    return Output(chosen, "".join(reversed(pieces))[-limit:], following)


def part(session: Session, job_id: str, *, attempt: int | None, start: int, limit: int) -> Output:
    """An attempt's output from a place on: whole pieces, until they have `limit` characters."""
    chosen = _attempt(session, job_id, attempt)
    rows = session.execute(
        _pieces(job_id, chosen).where(LogChunk.start >= start).order_by(LogChunk.start).execution_options(yield_per=16)
    ).tuples()
    pieces: list[str] = []
    size, following = 0, start
    for begin, text in rows:
        following = begin + 1
        pieces.append(text)
        size += len(text)
        if size >= limit:
            break
    rows.close()
    return Output(chosen, "".join(pieces), following)


def _attempt(session: Session, job_id: str, attempt: int | None) -> int | None:
    if attempt is not None:
        return attempt
    return session.scalar(select(func.max(LogChunk.attempt)).where(LogChunk.job_id == job_id))


def _pieces(job_id: str, attempt: int | None) -> Select[int, str]:
    return select(LogChunk.start, LogChunk.text).where(LogChunk.job_id == job_id, LogChunk.attempt == attempt)
