"""Adds and removes webhooks."""

from collections.abc import Sequence

from sqlalchemy import delete, select

from app.auth.tables import Project
from app.db import Database
from app.errors import Conflict, InvalidRequest, NotFound
from app.identifiers import new_id
from app.sealing import Sealer
from app.webhooks import queries
from app.webhooks.message import new_secret
from app.webhooks.tables import Webhook
from app.webhooks.target import UnusableTarget, addresses, parse

LIMIT = 20
"""The maximum number of webhooks in a project."""


def add(
    database: Database, sealer: Sealer, project_id: str, url: str, events: Sequence[str], *, private_addresses: bool
) -> tuple[Webhook, str]:
    """Create a webhook, and return it with its secret, which is stored encrypted.

    Raises InvalidRequest for a URL that is not allowed, Conflict above the limit.
    """
    try:
        addresses(parse(url, private=private_addresses), private=private_addresses)
    except UnusableTarget as error:
        raise InvalidRequest(f"'url' {error}", param="url", code=error.code) from None
    secret = new_secret()
    webhook = Webhook(
        id=new_id("wh"), project_id=project_id, url=url, events=",".join(events), secret=sealer.seal(secret)
    )
    with database.write() as session:
        # Only one at a time in a project. Otherwise two requests could both pass the limit.
        session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
        if queries.count(session, project_id) >= LIMIT:
            raise Conflict(f"a project has at most {LIMIT} webhooks; delete one first", code="too_many_webhooks")
        session.add(webhook)
    return webhook, secret


def remove(database: Database, project_id: str, webhook_id: str) -> None:
    """Delete a webhook and its pending deliveries. Raises NotFound."""
    with database.write() as session:
        removed = session.execute(
            delete(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id).returning(Webhook.id)
        ).one_or_none()
    if removed is None:
        raise not_found()


def not_found() -> NotFound:
    """The error for an id that does not belong to the project."""
    return NotFound("there is no such webhook in this project", param="webhook_id", code="webhook_not_found")
