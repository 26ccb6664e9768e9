"""Webhooks and their pending deliveries."""

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.auth.tables import Project
from app.db import db_now
from app.jobs.tables import Event
from app.tables import Base


class Webhook(Base):
    """An address that receives status events of a project's jobs, and the result of the last try."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey(Project.id), index=True)
    url: Mapped[str] = mapped_column(String(2048))
    events: Mapped[str] = mapped_column(String(200))
    """Event types, separated by commas."""
    secret: Mapped[str] = mapped_column(Text)
    """Encrypted where the service has a key for it (`app.sealing`). A signature cannot be computed from a hash."""
    failures: Mapped[int] = mapped_column(Integer, insert_default=0)
    """Tries that failed since the last success."""
    given_up: Mapped[int] = mapped_column(BigInteger, insert_default=0)
    last_attempt_at: Mapped[float | None]
    last_status_code: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(String(300))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    disabled_at: Mapped[float | None]


class WebhookDelivery(Base):
    """A pending delivery of a status event to a webhook. The row is deleted after the delivery."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "seq"], [Event.job_id, Event.seq]),
        Index("ix_webhook_deliveries_webhook_id_due_at", "webhook_id", "due_at"),
    )

    webhook_id: Mapped[str] = mapped_column(ForeignKey(Webhook.id, ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tries: Mapped[int] = mapped_column(Integer)
    """Only grows. It guards what the process that tries may write."""
    due_at: Mapped[float]
    """When to try next. While a process tries: the time at which it counts as dead."""
