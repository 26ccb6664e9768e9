"""What a webhook is sent, and how it is signed (https://github.com/standard-webhooks/standard-webhooks)."""

import base64
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook as Signer

from app import __version__
from app.identifiers import new_id
from app.webhooks.tries import Claim

SECRET_BYTES = 32
REPORTED_OF_AN_ERROR = ("code", "message", "hint")
"""The other fields, such as the end of the output, may be long. A receiver can request them with its key."""


@dataclass(frozen=True)
class Message:
    """A body and its id, by which a receiver recognizes a repeated delivery."""

    id: str
    body: bytes


def new_secret() -> str:
    """A signing secret in the format of the receivers' libraries: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def of_job(claimed: Claim) -> Message:
    """The message of a status event. It is the same at every try: the log never changes."""
    event = claimed.event
    error: dict[str, Any] | None = event.data.get("error")
    data: dict[str, Any] = {
        "id": claimed.job_id,
        "object": "job",
        "status": event.data["to"],
        "attempt": event.attempt,
        "event_id": event.seq,
        "name": claimed.name,
        "metadata": claimed.metadata,
        **({"error": {key: error.get(key) for key in REPORTED_OF_AN_ERROR}} if error else {}),
    }
    body = _body(f"job.{event.data['to']}", datetime.fromtimestamp(event.created_at, UTC), data)
    return Message(f"{claimed.job_id}_{claimed.seq}", body)


def of_test(webhook_id: str) -> Message:
    """The message that tests a webhook."""
    data = {"id": webhook_id, "object": "webhook"}
    return Message(new_id("msg"), _body("webhook.test", datetime.now(UTC), data))


def headers(message: Message, secret: str) -> dict[str, str]:
    """The headers of one try. The signature includes the current time, which receivers compare with their own clock."""
    at = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "user-agent": f"tunesmith/{__version__}",
        "webhook-id": message.id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Signer(secret).sign(message.id, at, message.body.decode()),
    }


def _body(kind: str, at: datetime, data: dict[str, Any]) -> bytes:
    timestamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": kind, "timestamp": timestamp, "data": data}, separators=(",", ":")).encode()
