"""HTTP load from one process: some connections, each with one request at a time, for a number of seconds."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools
import uvloop


@dataclass(frozen=True)
class Request:
    """One request to repeat."""

    path: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""

    def encoded(self, host: str) -> bytes:
        """The bytes to send."""
        headers = {"host": host, "content-length": str(len(self.body)), **self.headers}
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + self.body


@dataclass(frozen=True)
class Load:
    """What was measured."""

    per_second: float
    p50_ms: float
    p99_ms: float
    bytes: int
    """The size of one answer, head included."""


def load(url: str, requests: Sequence[Request], *, connections: int, seconds: float) -> Load:
    """Send these requests, one after the other on each connection. Raises SystemExit at an answer that is an error."""
    return uvloop.run(_load(url, requests, connections, seconds))


async def _load(url: str, requests: Sequence[Request], connections: int, seconds: float) -> Load:
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    encoded = [request.encoded(f"{host}:{port}") for request in requests]
    times: list[float] = []
    sizes: list[int] = []
    began = time.perf_counter()
    deadline = began + seconds
    loop = asyncio.get_running_loop()

    async def one(start: int) -> None:
        done: asyncio.Future[None] = loop.create_future()
        _, client = await loop.create_connection(
            lambda: _Client(encoded, start, deadline, times, sizes, done), host, port
        )
        del client
        await done

    await asyncio.gather(*(one(number) for number in range(connections)))
    took = time.perf_counter() - began
    ordered = sorted(times)
    return Load(
        len(times) / took,
        1000 * statistics.median(ordered),
        1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        round(statistics.mean(sizes)),
    )


class _Client(asyncio.Protocol):
    def __init__(
        self,
        requests: list[bytes],
        start: int,
        deadline: float,
        times: list[float],
        sizes: list[int],
        done: "asyncio.Future[None]",
    ) -> None:
        self._requests, self._next, self._deadline = requests, start, deadline
        self._times, self._sizes, self._done = times, sizes, done
        self._send: Callable[[bytes], None]
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._size = 0
        self._began = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])  # type: ignore[attr-defined]
        self._next += 1

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        if self._parser.get_status_code() >= 400:
            self._done.set_exception(SystemExit(f"an answer was {self._parser.get_status_code()}"))
            self._transport.close()
            return
        self._times.append(now - self._began)
        self._sizes.append(self._size)
        if now < self._deadline:
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self._done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(SystemExit("the server closed a connection"))
