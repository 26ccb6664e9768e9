"""An event as clients see it (`app.api.answers.EventAnswer`)."""

from typing import Any

from app.api.json_answers import fragment, time_text
from app.jobs.event_log import LoggedEvent


def event_json(event: LoggedEvent) -> dict[str, Any]:
    """One entry of a job's log as JSON."""
    return {
        "id": event.seq,
        "object": "event",
        "type": event.type,
        "attempt": event.attempt,
        "data": fragment(event.data_json),
        "created_at": time_text(event.created_at),
    }
