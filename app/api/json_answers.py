"""JSON that is written once, with an ETag, so that a client that polls gets 304 while nothing changes (RFC 9110, section 13)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import orjson
from fastapi import Request, Response

TAG_BYTES = 16


def fragment(text: str | None) -> Any:
    """JSON that the database already has as text."""
    return None if text is None else orjson.Fragment(text)


def time_text(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def written(content: Any) -> bytes:
    """Content as JSON."""
    return orjson.dumps(content)


def tag_of(content: Any) -> str:
    """A weak ETag: it is the same for what means the same."""
    return f'W/"{blake2b(written(content), digest_size=TAG_BYTES).hexdigest()}"'


def tagged(request: Request, content: Any, tag: str | None = None) -> Response:
    """Content as a response, or 304 if the client has it. `tag` is the ETag if it is not that of the whole content."""
    tag = tag or tag_of(content)
    # A browser may keep it, but asks each time whether it is still right.
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return json_response(content, headers=headers)


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Content as a JSON response."""
    return Response(written(content), status_code=status, headers=dict(headers or {}), media_type="application/json")


def page_of(data: Sequence[Any], *, has_more: bool) -> dict[str, Any]:
    """A page of a list, as `app.api.answers.Page` describes it."""
    return {"object": "list", "data": data, "has_more": has_more}


def matches(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names this ETag, by the weak comparison."""
    if header is None:
        return False
    candidates = [candidate.strip().removeprefix("W/") for candidate in header.split(",")]
    return "*" in candidates or tag.removeprefix("W/") in candidates
