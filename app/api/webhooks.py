"""Create, read, test and delete webhooks."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.answers import Deleted, Error, Page, Time
from app.api.body import json_body
from app.api.context import Context, ProjectId, ServiceContext
from app.webhooks import changes, message, queries
from app.webhooks.spec import EventType, WebhookSpec
from app.webhooks.tables import Webhook

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Body = Annotated[tuple[WebhookSpec, Any], Depends(json_body(WebhookSpec))]
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": WebhookSpec.model_json_schema()}}}}


class LastDelivery(BaseModel):
    """The result of the newest delivery attempt."""

    time: Time
    status_code: int | None = Field(description="The status code of the receiver; null if no response came.")
    error: str | None = Field(description="Why the event does not count as delivered; null if it does.")


class WebhookAnswer(BaseModel):
    """An address that receives events."""

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[EventType]
    enabled: bool = Field(description="False after the receiver answered 410. Nothing is sent any more.")
    last_delivery: LastDelivery | None
    consecutive_failures: int = Field(description="Delivery attempts that failed since the last success.")
    given_up: int = Field(description="Events that were given up after all their delivery attempts failed.")
    created_at: Time


class NewWebhook(WebhookAnswer):
    """A webhook with its secret, which is shown only once."""

    secret: str = Field(description="Verifies signatures: `whsec_` and base64. It is not shown again.")


class WebhookTest(BaseModel):
    """The result of a test."""

    object: Literal["webhook.test"] = "webhook.test"
    delivered: bool = Field(description="Whether the receiver answered 2xx.")
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
    """Send events of this project's jobs to a URL, from now on. Only this response has the secret."""
    spec = body[0]
    private = context.settings.webhook_private_addresses
    webhook, secret = changes.add(
        context.database, context.sealer, project, spec.url, spec.events, private_addresses=private
    )
    return NewWebhook(**_fields(webhook), secret=secret)


@router.get("", response_model=Page[WebhookAnswer])
def list_webhooks(context: Context, project: ProjectId) -> Page[WebhookAnswer]:
    """List webhooks, newest first, all on one page."""
    with context.database.read() as session:
        return Page(data=[WebhookAnswer(**_fields(webhook)) for webhook in queries.webhooks(session, project)])


@router.get("/{webhook_id}", response_model=WebhookAnswer, responses={404: {"model": Error}})
def get(webhook_id: str, context: Context, project: ProjectId) -> WebhookAnswer:
    """Get a webhook, with the result of its newest delivery."""
    return WebhookAnswer(**_fields(_find(context, project, webhook_id)))


@router.delete("/{webhook_id}", response_model=Deleted, responses={404: {"model": Error}})
def delete(webhook_id: str, context: Context, project: ProjectId) -> Deleted:
    """Delete a webhook and its pending deliveries."""
    changes.remove(context.database, project, webhook_id)
    return Deleted(id=webhook_id, object="webhook")


@router.post("/{webhook_id}/test", response_model=WebhookTest, responses={404: {"model": Error}})
async def test(webhook_id: str, context: Context, project: ProjectId) -> WebhookTest:
    """Send one `webhook.test` event now, and return the result. The webhook itself does not change."""
    webhook = await run_in_threadpool(_find, context, project, webhook_id)
    delivery = message.of_test(webhook.id)
    outcome = await context.sender.post(
        webhook.url, message.headers(delivery, context.sealer.open(webhook.secret)), delivery.body
    )
    return WebhookTest(delivered=outcome.delivered, status_code=outcome.status_code, error=outcome.error)


def _find(context: ServiceContext, project: str, webhook_id: str) -> Webhook:
    with context.database.read() as session:
        webhook = queries.webhook(session, project, webhook_id)
    if webhook is None:
        raise changes.not_found()
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
