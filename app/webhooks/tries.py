"""One process tries one delivery: the claim before, and the record after. Nothing else writes deliveries.

Every function takes a write session and leaves the commit to its caller. A claim is guarded by `tries`, which only
grows. A process that was wrongly considered dead therefore writes nothing.
"""

import logging
import random
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, select, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.tables import Event, Job
from app.webhooks.queries import Waiting
from app.webhooks.sender import Outcome
from app.webhooks.tables import Webhook, WebhookDelivery

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""Longer than any try, with time to record it."""
WAITS = (5.0, 30.0, 180.0, 1080.0, 6480.0, 21600.0, 21600.0, 21600.0)
"""Seconds from one try to the next; 20 hours in total."""
JITTER = 0.1
GONE = 410


@dataclass(frozen=True)
class Claim:
    """The right to send one event to one webhook, and all that is needed for it."""

    webhook_id: str
    job_id: str
    seq: int
    tries: int
    url: str
    secret: str
    event: Event
    name: str | None
    metadata: dict[str, Any]

    def guard(self) -> tuple[ColumnElement[bool], ...]:
        """The guard of everything that is written about it."""
        return (
            WebhookDelivery.webhook_id == self.webhook_id,
            WebhookDelivery.job_id == self.job_id,
            WebhookDelivery.seq == self.seq,
            WebhookDelivery.tries == self.tries,
        )


def claim(session: Session, waiting: Waiting) -> Claim | None:
    """Take a delivery for LEASE_SECONDS, or None where another process was first or the webhook is gone."""
    taken = session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.webhook_id == waiting.webhook_id,
            WebhookDelivery.job_id == waiting.job_id,
            WebhookDelivery.seq == waiting.seq,
            WebhookDelivery.due_at <= now(),
        )
        .values(tries=WebhookDelivery.tries + 1, due_at=now() + LEASE_SECONDS)
        .returning(WebhookDelivery.tries)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        return None
    row = session.execute(
        select(Webhook.url, Webhook.secret, Event, Job.name, Job.user_metadata)
        .join(Job, Job.project_id == Webhook.project_id)
        .join(Event, Event.job_id == Job.id)
        .where(Webhook.id == waiting.webhook_id, Job.id == waiting.job_id, Event.seq == waiting.seq)
    ).one_or_none()
    return None if row is None else Claim(*waiting, taken.tries, *row.tuple())


def record(session: Session, claimed: Claim, outcome: Outcome) -> None:
    """Record the result of a try: sent, to be tried again, given up, or unwanted. Writes nothing if the claim was lost."""
    if not _note(session, claimed, outcome):
        log.warning("webhook %s: try %s came too late to count", claimed.webhook_id, claimed.tries)
    elif outcome.delivered:
        session.execute(delete(WebhookDelivery).where(*claimed.guard()))
    elif outcome.status_code == GONE:
        log.warning("webhook %s answers 410 and is disabled", claimed.webhook_id)
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook_id == claimed.webhook_id))
    elif claimed.tries > len(WAITS):
        log.warning("webhook %s: event %s of %s is given up", claimed.webhook_id, claimed.seq, claimed.job_id)
        session.execute(delete(WebhookDelivery).where(*claimed.guard()))
    else:
        _postpone(session, claimed)


def _note(session: Session, claimed: Claim, outcome: Outcome) -> bool:
    # The webhook before its deliveries, as its removal locks them.
    gone = outcome.status_code == GONE
    gives_up = not outcome.delivered and not gone and claimed.tries > len(WAITS)
    noted = session.execute(
        update(Webhook)
        .where(Webhook.id == claimed.webhook_id, exists().where(*claimed.guard()))
        .values(
            last_attempt_at=now(),
            last_status_code=outcome.status_code,
            last_error=outcome.error,
            failures=0 if outcome.delivered else Webhook.failures + 1,
            given_up=Webhook.given_up + int(gives_up),
            **({"disabled_at": now()} if gone else {}),
        )
        .returning(Webhook.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return noted is not None


def _postpone(session: Session, claimed: Claim) -> None:
    wait = WAITS[claimed.tries - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311 - spreads load, hides nothing
    # Later events of the job wait behind this one anyway; so they are not looked at again and again.
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == claimed.webhook_id, WebhookDelivery.job_id == claimed.job_id)
        .values(due_at=now() + wait)
        .execution_options(synchronize_session=False)
    )
