"""The body of `POST /v1/webhooks`."""

from typing import Literal

from pydantic import Field, field_validator

from app.specs.strict import Strict

EventType = Literal["job.queued", "job.running", "job.paused", "job.succeeded", "job.failed", "job.cancelled"]
LONGEST_URL = 2048


class WebhookSpec(Strict):
    """Where to send which events."""

    url: str = Field(
        min_length=1,
        max_length=LONGEST_URL,
        json_schema_extra={"pattern": r"^https?://[^\s/@#?]+"},
        description="Where events are POSTed: https, without user name, password or fragment.",
    )
    events: list[EventType] = Field(
        default=["job.succeeded", "job.failed", "job.cancelled"],
        min_length=1,
        json_schema_extra={"uniqueItems": True},
        description="The events: `job.` followed by the new status of the job.",
    )

    @field_validator("events")
    @classmethod
    def _each_event_once(cls, events: list[EventType]) -> list[EventType]:
        if len(set(events)) < len(events):
            raise ValueError("must name each event once")
        return events
