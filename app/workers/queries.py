"""Every read of workers."""

from collections.abc import Sequence

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from app.db import now
from app.workers.tables import Worker


def listed(session: Session, *, silent_for: float) -> Sequence[Row[Worker, bool]]:
    """Workers that have not stopped, with whether each was heard within `silent_for` seconds."""
    return session.execute(
        select(Worker, (Worker.last_seen_at > now() - silent_for).label("alive"))
        .where(Worker.stopped_at.is_(None), Worker.last_seen_at > now() - 86_400)
        .order_by(Worker.started_at)
    ).all()


def alive(session: Session, *, silent_for: float) -> list[Worker]:
    """Workers that were heard within `silent_for` seconds and have not stopped."""
    return [worker for worker, is_alive in listed(session, silent_for=silent_for) if is_alive]
