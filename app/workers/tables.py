"""The worker processes."""

from typing import Any

from sqlalchemy import Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import db_now
from app.tables import Base


class Worker(Base):
    """A worker process and what it can run."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(String(50))
    queues: Mapped[str] = mapped_column(String(200))
    engines: Mapped[str] = mapped_column(String(200))
    features: Mapped[list[str] | None]
    """The features that the worker knows (`app.specs.features`);

    None for a worker of a version before migration 0007.
    """
    slots: Mapped[int] = mapped_column(Integer)
    hardware: Mapped[dict[str, Any]]
    started_at: Mapped[float] = mapped_column(insert_default=db_now())
    last_seen_at: Mapped[float] = mapped_column(insert_default=db_now())
    stopped_at: Mapped[float | None]
