"""Pending deliveries, written in the same transaction as the event."""

from sqlalchemy import BigInteger, insert, literal, select
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.states import JobStatus
from app.jobs.tables import Job
from app.webhooks.tables import Webhook, WebhookDelivery


def announce(session: Session, job_id: str, seq: int, status: JobStatus) -> None:
    """Add a delivery of a status event for each webhook of its project that wants it, in the event's own transaction."""
    wanted = (
        select(Webhook.id, literal(job_id), literal(seq, BigInteger), literal(0), now())
        .join(Job, Job.project_id == Webhook.project_id)
        .where(Job.id == job_id, Webhook.disabled_at.is_(None), Webhook.events.contains(f"job.{status}"))
        # A webhook that is deleted meanwhile is left out, instead of failing the job's own transaction.
        .with_for_update(read=True, key_share=True, of=Webhook)
    )
    columns = ["webhook_id", "job_id", "seq", "tries", "due_at"]
    session.execute(insert(WebhookDelivery).from_select(columns, wanted))
