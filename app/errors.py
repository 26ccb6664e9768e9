"""All errors of the service, as one tree.

TunesmithError
├── Unauthorized            401  no key, or a wrong or revoked one
├── Forbidden               403  the key may not do that
├── NotFound                404  no such thing in this project
├── MethodNotAllowed        405
├── Conflict                409  the state does not allow it; retrying will not help
├── TooLarge                413  more bytes than the limit
├── UriTooLong              414  the address is too long
├── UnsupportedMediaType    415  the body has a content encoding
├── RangeNotSatisfiable     416  a byte range outside the file
├── InvalidRequest          422  the body, a field, a row or a parameter is unusable
├── RateLimited             429  too many requests; the header retry-after says when to try again
├── QuotaExceeded           429  the project has used what it may
├── Unavailable             503  a part of the service does not answer; retrying will help
└── InsufficientStorage     507  a disk, a quota or the database has no room

A docstring is the default message. Every error reaches the client as
`{"error": {"message", "type", "param", "code", "details"?}}`, and of the request only names of fields and columns are
echoed.
"""

from typing import Any, ClassVar


class TunesmithError(Exception):
    """Something went wrong inside the service."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        details: dict[str, Any] | list[Any] | None = None,
    ) -> None:
        self.message = message or (self.__doc__ or "").strip()
        self.code = code or self.code
        self.param = param
        self.details = details
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The JSON that the client gets."""
        error: dict[str, Any] = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        if self.details is not None:
            error["details"] = self.details
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        return {}


class Unauthorized(TunesmithError):
    """A valid API key is needed: send `Authorization: Bearer KEY`; `tunesmith keys create` makes one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Name the scheme, as RFC 9110 requires with a 401."""
        return {"www-authenticate": "Bearer"}


class Forbidden(TunesmithError):
    """This key may not do that; an admin of the project can create one that may."""

    status = 403
    type = "permission_error"
    code = "role_insufficient"


class NotFound(TunesmithError):
    """This object does not exist."""

    status = 404
    type = "not_found_error"
    code = "not_found"


class MethodNotAllowed(TunesmithError):
    """This address does not support that method; the `allow` header lists the methods that it supports."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        """`allowed` is the comma-separated list of methods that the address supports."""
        self.allowed = allowed
        super().__init__()

    def headers(self) -> dict[str, str]:
        """List the methods, as RFC 9110 requires with a 405."""
        return {"allow": self.allowed}


class Conflict(TunesmithError):
    """The state of this job does not allow that."""

    status = 409
    type = "conflict_error"
    code = "conflict"

    def headers(self) -> dict[str, str]:
        """The openai client retries every 409; this header prevents that."""
        return {"x-should-retry": "false"}


class TooLarge(TunesmithError):
    """The request is larger than the limit."""

    status = 413
    type = "invalid_request_error"
    code = "too_large"


class UriTooLong(TunesmithError):
    """The address is too long; put long values into the body."""

    status = 414
    type = "invalid_request_error"
    code = "uri_too_long"


class UnsupportedMediaType(TunesmithError):
    """Send the body without Content-Encoding. Datasets may be .gz files."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"

    def headers(self) -> dict[str, str]:
        """Name the only supported encoding, as RFC 9110 requires."""
        return {"accept-encoding": "identity"}


class RangeNotSatisfiable(TunesmithError):
    """The range is outside the file."""

    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        """`size` is the file's, in bytes."""
        self.size = size
        super().__init__(f"the file has {size} bytes", param="range", details={"size": size})

    def headers(self) -> dict[str, str]:
        """Send the size, as RFC 9110 requires with a 416."""
        return {"content-range": f"bytes */{self.size}"}


class InvalidRequest(TunesmithError):
    """The request is invalid."""

    status = 422
    type = "invalid_request_error"
    code = "invalid"


class RateLimited(TunesmithError):
    """Too many requests; try again later."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"

    def __init__(self, seconds: int, rate_headers: dict[str, str]) -> None:
        """`seconds` until there is room again."""
        self._headers = {"retry-after": str(seconds), **rate_headers}
        super().__init__(f"too many requests; try again in {seconds} s")

    def headers(self) -> dict[str, str]:
        """When to try again, and the limit."""
        return self._headers


class QuotaExceeded(TunesmithError):
    """The project has used what it may use; GET /v1/usage shows it. An operator can raise its limits."""

    status = 429
    type = "quota_error"
    code = "quota_exceeded"

    def headers(self) -> dict[str, str]:
        """The openai client retries every 429; this header prevents that."""
        return {"x-should-retry": "false"}


class Unavailable(TunesmithError):
    """A part of the service does not answer right now; try again."""

    status = 503
    type = "server_error"
    code = "unavailable"

    def headers(self) -> dict[str, str]:
        """Ask for a retry soon."""
        return {"retry-after": "2"}


class InsufficientStorage(TunesmithError):
    """The service has no space left: a disk, a quota or the database is full. Its operator must free some space."""

    status = 507
    type = "server_error"
    code = "insufficient_storage"

    def headers(self) -> dict[str, str]:
        """Clients that retry every 5xx would fail until somebody frees some space; this header prevents that."""
        return {"x-should-retry": "false"}
