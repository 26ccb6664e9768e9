"""The outermost layer: what all requests and responses have in common, on every route."""

import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.context import READS, WITHOUT_EFFECT
from app.api.error_responses import response_of
from app.auth.audit import AuditedRequest
from app.auth.roles import Access
from app.errors import NotFound, TunesmithError, UnsupportedMediaType, UriTooLong
from app.identifiers import new_id

log = logging.getLogger(__name__)

LONGEST_ADDRESS = 8192
"""The limit of path and query, in bytes: what servers and proxies usually accept."""

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Edge:
    """Adds an `x-request-id` to every response, handles HEAD as GET without the body, and turns a fault into a 500.

    A route sees a HEAD as a GET with `request.state.is_head`, so it can skip the work for the body. Addresses that are
    too long or contain NUL, and bodies with a content encoding, are refused before any route sees them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and watch its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        state = {**scope.get("state", {}), "is_head": is_head}
        inner: Scope = {**scope, "state": state, "method": "GET" if is_head else scope["method"]}
        answer = _Answer(send, new_id("req"), inner, is_head=is_head)
        try:
            refusal = _refusal(scope)
            await (self._app if refusal is None else response_of(refusal))(inner, receive, answer.send)
        except ClientDisconnect:
            log.info("%s %s: the client left before its request was whole", scope["method"], scope["path"])
        except Exception:
            log.exception("%s %s failed (%s)", scope["method"], scope["path"], answer.request_id)
            if answer.started:
                # It is too late for an error response. The server closes the connection, so the client notices.
                raise
            await response_of(_fault(answer.request_id))(inner, receive, answer.send)


class _Answer:
    def __init__(self, send: Send, request_id: str, scope: Scope, *, is_head: bool) -> None:
        self.request_id = request_id
        self.started = False
        self._scope = scope
        self._send, self._is_head = send, is_head

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._audit(message["status"])
            more: dict[str, str] = self._scope["state"].get("response_headers", {})
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self.request_id.encode()),
                *((name.encode(), value.encode()) for name, value in more.items()),
            ]
        elif self._is_head:
            message = {**message, "body": b""}
        await self._send(message)

    def _audit(self, status: int) -> None:
        access: Access | None = self._scope["state"].get("access")
        method, path = self._scope["method"], self._scope["path"]
        if access is None or method in READS or path in WITHOUT_EFFECT:
            return
        client = self._scope.get("client")
        entry = AuditedRequest(
            access.project_id, access.key_id, method, path, status, client[0] if client else None, self.request_id
        )
        self._scope["app"].state.audit.add(entry)


def _refusal(scope: Scope) -> TunesmithError | None:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    if len(path) + len(scope["query_string"]) > LONGEST_ADDRESS:
        return UriTooLong(f"the address is longer than {LONGEST_ADDRESS} bytes; put long values into the body")
    if "\0" in scope["path"]:
        return NotFound("there is nothing at this address: no name contains NUL")
    if scope["method"] in WITH_BODY and any(
        name == b"content-encoding" and value.strip().lower() not in (b"", b"identity")
        for name, value in scope["headers"]
    ):
        return UnsupportedMediaType()
    return None


def _fault(request_id: str) -> TunesmithError:
    return TunesmithError(f"something went wrong inside the service; its log has the cause under {request_id}")
