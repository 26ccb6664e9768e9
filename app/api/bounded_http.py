"""uvicorn's HTTP protocol, with a limit on what it buffers before it calls the application.

Without a limit, it accepts an address or headers of any length from anyone. A hundred megabytes of short headers take
two gigabytes of memory, and a hundred megabytes in one line block every other request for seconds.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.zero_copy import offer

HEAD_LIMIT = 64 * 1024
"""The limit, in bytes, of request line and headers, of trailers, and of the size line of one chunk."""

REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)
BODY = (
    b'{"error":{"message":"the request line and headers are longer than %d bytes",'
    b'"type":"invalid_request_error","param":null,"code":"headers_too_large"}}' % HEAD_LIMIT
)


class BoundedHttp(HttpToolsProtocol):
    """Responds 431 above the limit, and closes the connection."""

    _gathered = 0
    """Bytes received that belong neither to a body nor to a part that is complete."""

    def data_received(self, data: bytes) -> None:
        """Count the bytes received. The parser's callbacks below subtract what is complete."""
        self._gathered += len(data)
        super().data_received(data)
        if self._gathered > HEAD_LIMIT and not self.transport.is_closing():
            self.transport.write(REFUSAL % (len(BODY), BODY))
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Reset the count: the head is complete."""
        self._gathered = 0
        before = self.cycle
        super().on_headers_complete()
        # An upgrade has no cycle of its own.
        if self.cycle is not before:
            offer(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Bodies have limits of their own."""
        self._gathered = max(0, self._gathered - len(body))
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """Reset the count: many small chunks do no harm."""
        self._gathered = 0

    def on_message_complete(self) -> None:
        """Reset the count for the next request."""
        self._gathered = 0
        super().on_message_complete()
