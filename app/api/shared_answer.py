"""An answer that all requests of one second share, for addresses that monitors and load balancers poll."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

SHARED_SECONDS = 1.0

Answer = TypeVar("Answer")


class SharedAnswer(Generic[Answer]):
    """What a function returned or raised up to a second ago. Only for the thread of the event loop."""

    def __init__(self, read: Callable[[], Answer]) -> None:
        self._read = read
        self._task: asyncio.Task[Answer] | None = None
        self._ended = 0.0

    async def get(self) -> Answer:
        """The answer. If it is old, one request reads it in a thread, and the others wait for it."""
        if self._task is None or (self._task.done() and time.monotonic() > self._ended + SHARED_SECONDS):
            self._task = asyncio.create_task(run_in_threadpool(self._read))
            self._task.add_done_callback(self._end)
        # A client that leaves does not end the reading for the others.
        return await asyncio.shield(self._task)

    def _end(self, task: asyncio.Task[Answer]) -> None:
        self._ended = time.monotonic()
