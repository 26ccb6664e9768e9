"""uvicorn's HTTP protocol with a bound on what it gathers before it calls the application.

Without one it takes an address or headers of any length from anybody: a hundred megabytes of short headers become two
gigabytes of memory, and a hundred megabytes in one line keep every other request waiting for seconds.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT = 64 * 1024
"""Bytes of request line and headers, of trailers, or of one chunk's own line."""

REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)
BODY = (
    b'{"error":{"message":"the request line and headers are longer than %d bytes",'
    b'"type":"invalid_request_error","param":null,"code":"headers_too_large"}}' % HEAD_LIMIT
)


class BoundedHttp(HttpToolsProtocol):
    """Refuses with 431 what comes over the bound, and closes the connection."""

    _gathered = 0
    """Bytes that came and were neither of a body nor of anything that is complete."""

    def data_received(self, data: bytes) -> None:
        """Count what comes, less what the parser's callbacks below take off."""
        self._gathered += len(data)
        super().data_received(data)
        if self._gathered > HEAD_LIMIT and not self.transport.is_closing():
            self.transport.write(REFUSAL % (len(BODY), BODY))
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Start anew: the head is whole."""
        self._gathered = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bodies have limits of their own."""
        self._gathered = max(0, self._gathered - len(body))
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """Start anew: many small chunks are no harm."""
        self._gathered = 0

    def on_message_complete(self) -> None:
        """Start anew for the next request."""
        self._gathered = 0
        super().on_message_complete()
