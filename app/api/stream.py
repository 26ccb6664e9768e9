"""A job's log as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

One query serves all streams of a process: the feed reads how far the logs of the watched jobs have grown, and wakes the
streams of those that grew. Each stream then continues after its last event id, so a client that reconnects with
Last-Event-ID misses no event and receives none twice.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.api.answers import EventAnswer
from app.db import Database
from app.jobs import queries
from app.jobs.states import TERMINAL
from app.jobs.tables import Event

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
PAGE = 500


class Feed:
    """Watches the jobs of the open streams. Created and closed on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched: dict[str, set[asyncio.Event]] = {}
        self._heads: dict[str, int] = {}
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._look(), name="event-feed")

    @property
    def is_closing(self) -> bool:
        """Whether streams shall end now."""
        return self._closing.is_set()

    def end_streams(self) -> None:
        """Ask every stream to end. Their clients reconnect elsewhere with the last id that they saw."""
        self._closing.set()
        for events in self._watched.values():
            for event in events:
                event.set()

    async def close(self) -> None:
        """End all streams and the watch."""
        self.end_streams()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def stream(self, job_id: str, after: int) -> AsyncGenerator[str]:
        """Yield the events after an id as they come, and a comment every 15 s. Ends with the job, or at shutdown."""
        grown = asyncio.Event()
        self._watched.setdefault(job_id, set()).add(grown)
        try:
            while not self.is_closing:
                grown.clear()
                events, has_more, ended = await run_in_threadpool(self._read, job_id, after)
                for event in events:
                    yield _frame(event)
                    after = event.seq
                if ended and not has_more:
                    return
                if not has_more and not await _is_set_within(grown, HEARTBEAT_SECONDS):
                    yield ": still here\n\n"
        finally:
            self._watched[job_id].discard(grown)
            if not self._watched[job_id]:
                del self._watched[job_id]
                self._heads.pop(job_id, None)

    async def _look(self) -> None:
        while not self.is_closing:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._watched:
                continue
            try:
                heads = await run_in_threadpool(self._find_heads, list(self._watched))
            except SQLAlchemyError as error:
                log.warning("event streams wait, the database does not answer: %s", error)
                continue
            for job_id, head in heads.items():
                if self._heads.get(job_id) != head:
                    self._heads[job_id] = head
                    for grown in self._watched.get(job_id, ()):
                        grown.set()

    def _find_heads(self, job_ids: list[str]) -> dict[str, int]:
        with self._database.read() as session:
            return queries.event_heads(session, job_ids)

    def _read(self, job_id: str, after: int) -> tuple[list[Event], bool, bool]:
        with self._database.read() as session:
            # The status is read first, so that the page surely has the event that ended the job.
            ended = queries.status(session, job_id) in TERMINAL
            events, has_more = queries.events(session, job_id, after=after, limit=PAGE)
        return events, has_more, ended


def event_answer(event: Event) -> EventAnswer:
    """An event as clients see it."""
    return EventAnswer(
        id=event.seq, type=event.type, attempt=event.attempt, data=event.data, created_at=event.created_at
    )


def _frame(event: Event) -> str:
    data = json.dumps(event_answer(event).model_dump(mode="json"), separators=(",", ":"))
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
