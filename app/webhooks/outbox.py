"""Pending deliveries, written in the same transaction as the event."""

from sqlalchemy import BigInteger, Insert, Integer, String, bindparam, insert, literal_column, select
from sqlalchemy.orm import Session

from app.db import Prepared, now
from app.jobs.states import JobStatus
from app.jobs.tables import Job
from app.webhooks.tables import Webhook, WebhookDelivery


def announce(session: Session, job_id: str, seq: int, status: JobStatus) -> None:
    """Add a delivery of a status event for each webhook of its project that wants it, in the event's own transaction."""
    _ANNOUNCE.run(session, job=job_id, event=seq, wanted=f"%job.{status}%")


def _announce() -> Insert:
    wanted = (
        select(
            Webhook.id,
            bindparam("job", type_=String),
            bindparam("event", type_=BigInteger),
            literal_column("0", Integer),
            now(),
        )
        .join(Job, Job.project_id == Webhook.project_id)
        .where(Job.id == bindparam("job"), Webhook.disabled_at.is_(None), Webhook.events.like(bindparam("wanted")))
        # A webhook that is deleted meanwhile is left out, instead of failing the job's own transaction.
        .with_for_update(read=True, key_share=True, of=Webhook)
    )
    columns = ["webhook_id", "job_id", "seq", "tries", "due_at"]
    return insert(WebhookDelivery).from_select(columns, wanted)


_ANNOUNCE = Prepared(_announce())
