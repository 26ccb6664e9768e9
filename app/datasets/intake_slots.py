"""Which uploads are parsed at the same time: a few, and fairly between projects."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class IntakeSlots:
    """`slots` uploads at once. A project that has none in progress need not wait for those of other projects.

    For its first upload there are as many slots again. All others wait, and the projects take turns. Only for the thread of
    one event loop.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, project: str) -> AsyncGenerator[None]:
        """Wait for a slot, and free it at the end."""
        await self._take(project)
        try:
            yield
        finally:
            self._free(project)

    async def _take(self, project: str) -> None:
        if project not in self._waiting and self._may_start(project):
            self._running[project] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free(project)
            else:
                self._leave(project, turn)
            raise

    def _may_start(self, project: str) -> bool:
        limit = self._slots if self._running[project] else 2 * self._slots
        return self._running.total() < limit

    def _free(self, project: str) -> None:
        self._running[project] -= 1
        if not self._running[project]:
            del self._running[project]
        for waiting in list(self._waiting):
            if self._may_start(waiting):
                turn = self._waiting[waiting][0]
                self._leave(waiting, turn)
                # The next one of this project comes after those of all others.
                if waiting in self._waiting:
                    self._waiting.move_to_end(waiting)
                self._running[waiting] += 1
                turn.set_result(None)

    def _leave(self, project: str, turn: asyncio.Future[None]) -> None:
        self._waiting[project].remove(turn)
        if not self._waiting[project]:
            del self._waiting[project]
