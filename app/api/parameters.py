"""Query parameters that several lists share."""

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query, Request
from fastapi.routing import APIRoute

from app.errors import InvalidRequest

SHOWN_NAME = 100
MOST_PAIRS = 16
UNESCAPED_PLUS = re.compile(r"T.* \d\d:?\d\d$")

Limit = Annotated[int, Query(ge=1, le=100, description="Entries per page.")]


Moment = Annotated[
    str | None,
    Query(
        max_length=40,
        description="ISO 8601 or seconds since 1970.",
        json_schema_extra={
            "pattern": r"^(\d{1,11}(\.\d{1,6})?|20\d{2}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])"
            r"(T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?(Z|[+-](0\d|1[0-3]):[0-5]\d)?)?)$"
        },
    ),
]
"""The pattern describes common forms. Others that ISO 8601 allows pass too."""


def point_in_time(name: str, value: str | None) -> float | None:
    """Read an ISO 8601 time or seconds since 1970. Raises InvalidRequest naming the parameter."""
    if value is None:
        return None
    try:
        return float(value) if value.replace(".", "", 1).isdigit() else _iso(value)
    except (ValueError, OverflowError):
        message = f"'{name}' must be a time such as 2030-01-31T12:00:00Z, or seconds since 1970"
        raise InvalidRequest(message, param=name, code="invalid_time") from None


def only_known(request: Request) -> None:
    """Refuse query parameters that the route does not declare: a misspelled filter must not list everything.

    A declared name such as `metadata[key]` allows all names of that form. Raises InvalidRequest.
    """
    route = request.scope["route"]
    known = sorted(field.alias for field in route.dependant.query_params) if isinstance(route, APIRoute) else []
    families = tuple(name.partition("[")[0] + "[" for name in known if name.endswith("]"))
    for name, value in request.query_params.multi_items():
        if name not in known and not (name.startswith(families) and name.endswith("]")):
            raise InvalidRequest(_unknown(known), param=name[:SHOWN_NAME], code="unknown_parameter")
        # No stored text contains NUL, and PostgreSQL does not accept it.
        if "\0" in name or "\0" in value:
            shown = name[:SHOWN_NAME].replace("\0", "\ufffd")
            raise InvalidRequest(f"'{shown}' contains a NUL character", param=shown, code="invalid_text")


def family(request: Request, name: str) -> dict[str, str]:
    """The parameters `name[key]=value` of a request, by key. Raises InvalidRequest for more than a job can have."""
    start = len(name) + 1
    given = request.query_params.items()
    found = {key[start:-1]: value for key, value in given if key.startswith(f"{name}[") and key.endswith("]")}
    if len(found) > MOST_PAIRS:
        message = f"a job has at most {MOST_PAIRS} pairs of {name}, so no job has all of these"
        raise InvalidRequest(message, param=name, code="too_many_filters")
    return found


def _unknown(known: list[str]) -> str:
    which = f"known are {', '.join(known)}" if known else "this address accepts none"
    return f"there is no such query parameter; {which}"


def _iso(value: str) -> float:
    # A plus sign that was not escaped arrives as a space.
    moment = datetime.fromisoformat(value.replace(" ", "+") if UNESCAPED_PLUS.search(value) else value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
