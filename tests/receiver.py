"""A real HTTP server of the test's own, which webhooks are sent to, and what makes the service send some."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from tiny import spec


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)


Answer = Callable[[Received], int]
"""Decides the status code; a redirect goes to `/elsewhere`."""


@dataclass
class Receiver:
    """What came in, in order of arrival. `port` is of 127.0.0.1."""

    port: int
    answer: Answer
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def events(self) -> list[tuple[str, int]]:
        """Type and event id of all that came in."""
        return [(item.event["type"], item.event["data"]["event_id"]) for item in list(self.received)]

    def wait(self, count: int, seconds: float = 60) -> list[Received]:
        """What came in, once it is as much as this."""
        wait_for(lambda: len(self.received) >= count, seconds, self.events)
        return list(self.received)


@contextmanager
def receiver(answer: Answer = lambda _: 204, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Listen on 127.0.0.1, on a port that is free if none is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            got = Received(self.path, headers, body)
            known.received.append(got)
            status = known.answer(got)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", f"http://127.0.0.1:{known.port}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, address: Any) -> None:
            """A sender that died, or does not trust the certificate, is what some tests are about."""

    server = Server(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    known = Receiver(server.server_address[1], answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def subscribe(http: httpx.Client, url: str, **more: object) -> dict[str, str]:
    made = http.post("/v1/webhooks", json={"url": url, **more})
    assert made.status_code == 201, made.text
    return dict(made.json())


def post(http: httpx.Client, **parts: object) -> str:
    """A job that no worker takes."""
    return str(http.post("/v1/jobs", json=spec(resources={"gpus": 1}, **parts)).json()["id"])


def cancelled(http: httpx.Client) -> str:
    job = post(http)
    http.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    return job


def wait_for(reached: Callable[[], Any], seconds: float, said: Callable[[], Any] = lambda: None) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, (f"not within {seconds} s", said())
        time.sleep(0.05)
