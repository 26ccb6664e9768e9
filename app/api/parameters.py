"""Query parameters that several lists share."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query, Request

from app.errors import InvalidRequest

Limit = Annotated[int, Query(ge=1, le=100, description="Entries a page.")]


def point_in_time(name: str, value: str | None) -> float | None:
    """Read an ISO 8601 time or seconds since 1970. Raises InvalidRequest naming the parameter."""
    if value is None:
        return None
    try:
        return float(value) if value.replace(".", "", 1).isdigit() else _iso(value)
    except (ValueError, OverflowError):
        message = f"'{name}' must be a time such as 2030-01-31T12:00:00Z, or seconds since 1970"
        raise InvalidRequest(message, param=name, code="invalid_time") from None


def only_known(request: Request, known: set[str], prefix: str | None = None) -> None:
    """Refuse query parameters that a list does not have: a misspelt filter must not list everything."""
    for name in request.query_params:
        if name not in known and not (prefix and name.startswith(prefix + "[") and name.endswith("]")):
            shown = ", ".join(sorted(known))
            raise InvalidRequest(
                "there is no such query parameter; known are " + shown, param=name[:100], code="unknown_parameter"
            )


def _iso(value: str) -> float:
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
