"""Work that one of several processes does: whoever comes first after it has become due."""

from sqlalchemy import String, or_, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db import now
from app.tables import Base

SWEEP = "sweep"
SWEEP_WITHOUT_RECLAIMS = "sweep_without_reclaims"
COLLECT_GARBAGE = "collect_garbage"
SHARE_OF_INTERVAL = 0.9
"""A process that comes at its own regular interval finds the work due again."""


class Turn(Base):
    """When some work is due again. Migrations add the rows."""

    __tablename__ = "turns"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    due_at: Mapped[float]


def take_turn(session: Session, name: str, interval: float) -> bool:
    """Whether the caller does this work now. If so, no other process does it for most of an interval, in seconds."""
    seconds = SHARE_OF_INTERVAL * interval
    # It is due later than it can be if the clock was set back.
    is_due = or_(Turn.due_at <= now(), Turn.due_at > now() + seconds)
    taken = update(Turn).where(Turn.name == name, is_due).values(due_at=now() + seconds).returning(Turn.name)
    return session.execute(taken.execution_options(synchronize_session=False)).one_or_none() is not None
