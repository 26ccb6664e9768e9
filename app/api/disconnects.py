"""Notices a client that leaves while the service works for it."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import Request


@asynccontextmanager
async def departure(request: Request) -> AsyncGenerator[threading.Event]:
    """An event that is set once the client has left. The body of the request must have been read."""
    left = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left.set()

    watcher = asyncio.create_task(watch())
    try:
        yield left
    finally:
        watcher.cancel()
