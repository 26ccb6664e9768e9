"""Files that the kernel sends from the disk to the connection, by the ASGI extension `http.response.zerocopysend`.

uvicorn does not offer it. `offer` adds it to a request of uvicorn (https://asgi.readthedocs.io/en/stable/extensions.html).
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

EXTENSION = "http.response.zerocopysend"
AT_ONCE = 8 << 20
"""Bytes of one system call."""
IN_THREAD = 64 << 20
"""Bytes after which a fast connection gives its thread to another one."""
FLUSH_SECONDS, LONGEST_FLUSH_SECONDS = 0.001, 0.25
"""How often the transport is asked whether it has sent what it holds: ever less often for a client that does not read."""

log = logging.getLogger(__name__)

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def offer(cycle: RequestResponseCycle, patience: float) -> None:
    """Let the application send files in the response of this request, to a client that reads at least every `patience` seconds."""
    cycle.scope.setdefault("extensions", {})[EXTENSION] = {}
    plain: Send = cycle.send  # type: ignore[assignment]

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == EXTENSION:
            await _send_file(cycle, message["file"], message["offset"], message["count"], patience)
        else:
            await plain(message)

    cycle.send = send  # type: ignore[method-assign]


async def _send_file(cycle: RequestResponseCycle, file: int, offset: int, count: int, patience: float) -> None:
    transport = cycle.transport
    # What the transport still holds comes first.
    wait = FLUSH_SECONDS
    while transport.get_write_buffer_size() and not cycle.disconnected:  # it has no event for this
        await asyncio.sleep(wait)
        wait = min(2 * wait, LONGEST_FLUSH_SECONDS)
    if cycle.disconnected:
        return
    # The event loop watches the transport's own descriptor, and allows nobody else to wait for it.
    connection = os.dup(transport.get_extra_info("socket").fileno())
    end = offset + count
    try:
        while offset < end and not cycle.disconnected:
            sent, is_full = await run_in_threadpool(_send_some, connection, file, offset, end - offset)
            offset += sent
            cycle.expected_content_length -= sent
            if is_full:
                async with asyncio.timeout(patience):
                    await _writable(connection)
    except TimeoutError:
        log.info("closed a connection whose client read nothing for %g s", patience)
        transport.abort()
    except (BrokenPipeError, ConnectionResetError):
        # The client left. uvicorn notices it too, and ignores the rest of the response.
        return
    finally:
        os.close(connection)


def _send_some(connection: int, file: int, offset: int, count: int) -> tuple[int, bool]:
    """Send until everything is sent or the connection is full: bytes sent, and whether it is full."""
    sent, limit = 0, min(count, IN_THREAD)
    while sent < limit:
        try:
            more = os.sendfile(connection, file, offset + sent, min(limit - sent, AT_ONCE))
        except BlockingIOError:
            return sent, True
        if not more:
            raise EOFError("a stored file is shorter than its manifest says")
        sent += more
    return sent, False


async def _writable(connection: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(connection, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(connection)
