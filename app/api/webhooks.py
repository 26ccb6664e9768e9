"""Make a webhook, look at it, try it, delete it."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.answers import Deleted, Error, Page, Time
from app.api.body import json_body
from app.api.context import Context, ProjectId, ServiceContext
from app.webhooks import catalogue, message, queries
from app.webhooks.spec import EventType, WebhookSpec
from app.webhooks.tables import Webhook

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Body = Annotated[tuple[WebhookSpec, Any], Depends(json_body(WebhookSpec))]
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": WebhookSpec.model_json_schema()}}}}


class LastDelivery(BaseModel):
    """How the newest try went."""

    time: Time
    status_code: int | None = Field(description="What the receiver answered; null where no answer came.")
    error: str | None = Field(description="Why it does not count as delivered; null where it does.")


class WebhookAnswer(BaseModel):
    """An address that events are sent to."""

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[EventType]
    enabled: bool = Field(description="False once the receiver answered 410: nothing is sent any more.")
    last_delivery: LastDelivery | None
    consecutive_failures: int = Field(description="Tries that failed since the last one that did not.")
    given_up: int = Field(description="Events that were not delivered by any of their tries.")
    created_at: Time


class NewWebhook(WebhookAnswer):
    """A webhook, and the only sight of its secret."""

    secret: str = Field(description="Verifies signatures: `whsec_` and base64. It is not shown again.")


class WebhookTest(BaseModel):
    """What came back from a test."""

    object: Literal["webhook.test"] = "webhook.test"
    delivered: bool = Field(description="Whether the answer was a 2xx.")
    status_code: int | None
    error: str | None


@router.post(
    "",
    status_code=201,
    response_model=NewWebhook,
    responses={409: {"model": Error}, 422: {"model": Error}},
    openapi_extra=BODY,
)
def create(body: Body, context: Context, project: ProjectId) -> NewWebhook:
    """Have events of this project's jobs sent to a URL, from now on. The answer alone has the secret."""
    spec = body[0]
    private = context.settings.webhook_private_addresses
    webhook = catalogue.add(context.database, project, spec.url, spec.events, private_addresses=private)
    return NewWebhook(**_fields(webhook), secret=webhook.secret)


@router.get("", response_model=Page[WebhookAnswer])
def list_webhooks(context: Context, project: ProjectId) -> Page[WebhookAnswer]:
    """List webhooks, newest first, all on one page."""
    with context.database.read() as session:
        return Page(data=[WebhookAnswer(**_fields(webhook)) for webhook in queries.webhooks(session, project)])


@router.get("/{webhook_id}", response_model=WebhookAnswer, responses={404: {"model": Error}})
def get(webhook_id: str, context: Context, project: ProjectId) -> WebhookAnswer:
    """Look at one webhook and at how its newest delivery went."""
    return WebhookAnswer(**_fields(_find(context, project, webhook_id)))


@router.delete("/{webhook_id}", response_model=Deleted, responses={404: {"model": Error}})
def delete(webhook_id: str, context: Context, project: ProjectId) -> Deleted:
    """Delete a webhook, and with it what was still to be sent."""
    catalogue.remove(context.database, project, webhook_id)
    return Deleted(id=webhook_id, object="webhook")


@router.post("/{webhook_id}/test", response_model=WebhookTest, responses={404: {"model": Error}})
async def test(webhook_id: str, context: Context, project: ProjectId) -> WebhookTest:
    """Send a `webhook.test` event now, once, and say what came back. Nothing about the webhook changes."""
    webhook = await run_in_threadpool(_find, context, project, webhook_id)
    told = message.of_test(webhook.id)
    outcome = await context.sender.post(webhook.url, message.headers(told, webhook.secret), told.body)
    return WebhookTest(delivered=outcome.delivered, status_code=outcome.status_code, error=outcome.error)


def _find(context: ServiceContext, project: str, webhook_id: str) -> Webhook:
    with context.database.read() as session:
        webhook = queries.webhook(session, project, webhook_id)
    if webhook is None:
        raise catalogue.not_found()
    return webhook


def _fields(webhook: Webhook) -> dict[str, Any]:
    tried = webhook.last_attempt_at is not None
    last = {"time": webhook.last_attempt_at, "status_code": webhook.last_status_code, "error": webhook.last_error}
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events.split(","),
        "enabled": webhook.disabled_at is None,
        "last_delivery": last if tried else None,
        "consecutive_failures": webhook.failures,
        "given_up": webhook.given_up,
        "created_at": webhook.created_at,
    }
