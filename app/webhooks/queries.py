"""Every read of webhooks and of their pending deliveries."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import ScalarSelect, exists, func, select
from sqlalchemy.orm import Session, aliased

from app.db import now
from app.webhooks.tables import Webhook, WebhookDelivery


class Waiting(NamedTuple):
    """A delivery that is due, as `tries.claim` takes it."""

    webhook_id: str
    job_id: str
    seq: int


def webhook(session: Session, project_id: str, webhook_id: str) -> Webhook | None:
    """One webhook of this project."""
    return session.scalar(select(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id))


def webhooks(session: Session, project_id: str) -> Sequence[Webhook]:
    """All webhooks of this project, newest first."""
    return session.scalars(select(Webhook).where(Webhook.project_id == project_id).order_by(Webhook.id.desc())).all()


def count(session: Session, project_id: str) -> int:
    """How many webhooks this project has."""
    return session.scalar(select(func.count()).where(Webhook.project_id == project_id)) or 0


def due(session: Session, *, each: int, in_flight: Mapping[str, int]) -> list[Waiting]:
    """The next due deliveries of every webhook: up to `each`, less those that are `in_flight` to it.

    Only the oldest delivery of each job is returned, so that events arrive in order. Webhooks with the fewest
    deliveries in flight come first. The cost is one index lookup for each webhook, and one more for each webhook with
    work. Neither finished jobs nor a backlog make it slower.
    """
    # The least of an index is read at its end. For EXISTS, PostgreSQL reads the table where one webhook has most of it.
    first = select(func.min(WebhookDelivery.due_at)).where(WebhookDelivery.webhook_id == Webhook.id).scalar_subquery()
    busy = session.scalars(select(Webhook.id).where(Webhook.disabled_at.is_(None), first <= now())).all()
    return [
        waiting
        for webhook_id in sorted(busy, key=lambda one: in_flight.get(one, 0))
        if (room := each - in_flight.get(webhook_id, 0)) > 0
        for waiting in _next(session, webhook_id, room)
    ]


def _next(session: Session, webhook_id: str, limit: int) -> list[Waiting]:
    earlier = aliased(WebhookDelivery)
    blocked = exists().where(
        earlier.webhook_id == WebhookDelivery.webhook_id,
        earlier.job_id == WebhookDelivery.job_id,
        earlier.seq < WebhookDelivery.seq,
    )
    rows = session.execute(
        select(WebhookDelivery.webhook_id, WebhookDelivery.job_id, WebhookDelivery.seq)
        .where(WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.due_at <= _moment(), ~blocked)
        .order_by(WebhookDelivery.due_at)
        .limit(limit)
    )
    return [Waiting(*row) for row in rows.tuples()]


def _moment() -> ScalarSelect[float]:
    # A subquery is read once; PostgreSQL uses no index for a clock that it must read for every row.
    return select(now()).scalar_subquery()
