"""uvicorn's HTTP protocol, with limits on what it buffers and how long it waits before, during and after a request.

Without a limit, it accepts an address or headers of any length from anyone. A hundred megabytes of short headers take
two gigabytes of memory, and a hundred megabytes in one line block every other request for seconds. It would also wait forever
for the rest of a request.
"""

import asyncio
import time
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.connections import Connections, Patience
from app.api.zero_copy import offer

HEAD_LIMIT = 64 * 1024
"""The limit, in bytes, of request line and headers, of trailers, and of the size line of one chunk."""
SLOWEST_BODY_BYTES = 1024
"""A body has to bring this much in each `Patience.body` seconds."""

REFUSAL = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bconnection: close\r\ncontent-length: %d\r\n\r\n%b"
ERROR = b'{"error":{"message":"%b","type":"%b","param":null,"code":"%b"}}'


def _refusal(status: bytes, code: bytes, message: bytes, headers: bytes = b"") -> bytes:
    kind = b"server_error" if status.startswith(b"5") else b"invalid_request_error"
    body = ERROR % (message, kind, code)
    return REFUSAL % (status, headers, len(body), body)


HEAD_TOO_LARGE = _refusal(
    b"431 Request Header Fields Too Large",
    b"headers_too_large",
    b"the request line and headers are longer than %d bytes" % HEAD_LIMIT,
)
TOO_SLOW = _refusal(b"408 Request Timeout", b"request_timeout", b"the request took too long to arrive; send it again")
TOO_MANY = _refusal(
    b"503 Service Unavailable",
    b"too_many_connections",
    b"this process has as many connections as it may; try again",
    b"retry-after: 1\r\n",
)


class BoundedHttp(HttpToolsProtocol):
    """Responds 431 above the limit of a head, 408 to a slow request, 503 to one connection too many, and closes each."""

    def __init__(self, connections: Connections, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._all = connections
        self._gathered = 0
        """Bytes received that belong neither to a body nor to a part that is complete."""
        self._since: float | None = time.monotonic()
        """Since when the head is awaited; None from its end to the end of the response."""
        self._body_since: float | None = None
        """Since when a kilobyte of the body is awaited; None without a body."""
        self._body_bytes = 0
        self._unsent = (0, 0.0)
        """What the transport held when it was looked at, and since when it has been the same."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or refuse it."""
        super().connection_made(transport)
        if not self._all.admit(self):
            transport.write(TOO_MANY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._all.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes received. The parser's callbacks below subtract what is complete."""
        if self.transport.is_closing():
            return
        self._gathered += len(data)
        super().data_received(data)
        if self._gathered > HEAD_LIMIT and not self.transport.is_closing():
            self.transport.write(HEAD_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Reset the count: the head is complete."""
        self._gathered = 0
        self._since = None
        self._body_since, self._body_bytes = time.monotonic(), 0
        before = self.cycle
        super().on_headers_complete()
        # An upgrade has no cycle of its own.
        if self.cycle is not before:
            offer(self.cycle, self._all.patience.send)

    def on_body(self, body: bytes) -> None:
        """Bodies have limits of their own."""
        self._gathered = max(0, self._gathered - len(body))
        self._body_bytes += len(body)
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """Reset the count: many small chunks do no harm."""
        self._gathered = 0

    def on_message_complete(self) -> None:
        """Reset the count for the next request."""
        self._gathered = 0
        self._body_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._since = time.monotonic()
        super().on_response_complete()

    def waits_since(self) -> float | None:
        """Since when the head of a request is awaited."""
        return self._since

    def overdue(self, now: float, patience: Patience) -> str | None:
        """`head`, `body` or `send` if the client took too long for it."""
        if self._since is not None and now - self._since > patience.head:
            return "head"
        if self._body_since is not None and self._is_body_late(now, patience.body):
            return "body"
        held = self.transport.get_write_buffer_size()
        if held != self._unsent[0]:
            self._unsent = held, now
        return "send" if held and now - self._unsent[1] > patience.send else None

    def give_up(self, reason: str) -> None:
        """Close the connection: with a 408 if no response has begun."""
        if reason == "send":
            self.transport.abort()
            return
        # The annotation of uvicorn does not say that there is none before the first request.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(TOO_SLOW)
        self.transport.close()

    def _is_body_late(self, now: float, seconds: float) -> bool:
        # While the service itself does not read, the client cannot send.
        if self.flow.read_paused or self._body_bytes >= SLOWEST_BODY_BYTES:
            self._body_since, self._body_bytes = now, 0
        return self._body_since is not None and now - self._body_since > seconds
