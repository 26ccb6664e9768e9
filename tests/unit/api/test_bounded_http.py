"""What a server gathers before a request is whole has a bound; what follows has none."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.api.bounded_http import HEAD_LIMIT, BoundedHttp
from app.api.connections import Connections, Patience


async def _length(scope: Scope, receive: Receive, send: Send) -> None:
    size = 0
    async for chunk in Request(scope, receive).stream():
        size += len(chunk)
    await PlainTextResponse(f"{size} bytes")(scope, receive, send)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        connections = Connections(100, Patience(60, 60, 60))
        server = uvicorn.Server(
            uvicorn.Config(_length, http=partial(BoundedHttp, connections), lifespan="off", log_config=None)
        )
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


ENDLESS = {
    "an address": (b"GET /", b"a" * 65_536),
    "a header": (b"GET / HTTP/1.1\r\nx: ", b"a" * 65_536),
    "headers": (b"GET / HTTP/1.1\r\n", b"x: y\r\n" * 10_000),
    "a chunk's line": (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x=", b"a" * 65_536),
    "trailers": (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n" * 10_000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_never_ends_is_cut_off(port: int, what: str) -> None:
    # The connection may be reset with bytes still on their way, so that nobody reads the answer.
    with (
        closing(socket.create_connection(("127.0.0.1", port), 10)) as connection,
        pytest.raises(ConnectionError),
    ):
        _pour(connection, *ENDLESS[what])


def test_a_head_over_the_limit_is_reported(port: int) -> None:
    assert _ask(port, b"GET / HTTP/1.1\r\nx: " + b"a" * (HEAD_LIMIT + 1)).startswith(b"HTTP/1.1 431 ")


def test_long_bodies_and_many_requests_pass(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * (HEAD_LIMIT - 1000) + b"\r\n"
    chunks = b"2\r\nab\r\n" * 100_000 + b"0\r\n\r\n"
    last = b"connection: close\r\n"
    assert b"5000000 bytes" in _ask(port, head + last + b"content-length: 5000000\r\n\r\n" + b"z" * 5_000_000)
    assert b"200000 bytes" in _ask(port, head + last + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    answers = _ask(port, (head + b"content-length: 3\r\n\r\nabc") * 20 + head + last + b"content-length: 4\r\n\r\nabcd")
    assert (answers.count(b"3 bytes"), answers.count(b"4 bytes")) == (20, 1)


def _ask(port: int, request: bytes) -> bytes:
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def _pour(connection: socket.socket, start: bytes, more: bytes) -> None:
    connection.sendall(start)
    for _ in range(64 * HEAD_LIMIT // len(more)):
        connection.sendall(more)
        time.sleep(0.01)
