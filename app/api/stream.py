"""A job's log as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

One query serves all streams of a process: the feed reads how far the logs of the watched jobs have grown, reads what is
new of each once, and wakes the streams of those jobs. Each stream then continues after its last event id, so a client that
reconnects with Last-Event-ID misses no event and receives none twice.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.api.event_json import event_json
from app.api.json_answers import written
from app.db import Database
from app.jobs import event_log
from app.jobs.event_log import Head, LoggedEvent
from app.jobs.states import TERMINAL

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": still here\n\n"
PAGE = 500
RECENT = 100
"""How many events of a watched job are kept for streams that have not sent them yet. Slower streams read the database."""


@dataclass(eq=False)
class _Watched:
    """A job that someone watches."""

    watchers: int = 0
    streams: int = 0
    """Watchers that want the events themselves, not only to be woken."""
    head: int = 0
    ended: bool = False
    recent: deque[tuple[int, bytes]] = field(default_factory=lambda: deque[tuple[int, bytes]](maxlen=RECENT))
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Wake everyone who waits now. Who waits later, waits for the next growth."""
        self.grown.set()
        self.grown = asyncio.Event()

    def after(self, seq: int) -> list[tuple[int, bytes]] | None:
        """The events after this one, or None if the oldest of them is no longer kept."""
        if seq >= self.head:
            return []
        if not self.recent or self.recent[0][0] > seq + 1:
            return None
        return [entry for entry in self.recent if entry[0] > seq]


class Feed:
    """Watches the jobs of the open streams. Created and closed on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched: dict[str, _Watched] = {}
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._look(), name="event-feed")

    @property
    def is_closing(self) -> bool:
        """Whether streams shall end now."""
        return self._closing.is_set()

    def end_streams(self) -> None:
        """Ask every stream to end. Their clients reconnect elsewhere with the last id that they saw."""
        self._closing.set()
        for watched in self._watched.values():
            watched.wake()

    async def close(self) -> None:
        """End all streams and the watch."""
        self.end_streams()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def stream(self, job_id: str, after: int) -> AsyncGenerator[bytes]:
        """Yield the events after an id as they come, and a comment every 15 s. Ends with the job, or at shutdown."""
        with self._watch(job_id, streams=1) as watched:
            while True:
                # Taken before the test below, so that the end of the feed is not missed.
                grown, ended = watched.grown, watched.ended
                if self.is_closing:
                    return
                frames = watched.after(after) if watched.head else None
                has_more = False
                if frames is None:
                    head, events = await run_in_threadpool(self._read, job_id, after)
                    frames = [(event.seq, _frame(event)) for event in events]
                    has_more, ended = len(events) == PAGE, head.status in TERMINAL
                if frames:
                    after = frames[-1][0]
                    yield b"".join(frame for _, frame in frames)
                if has_more or after < watched.head:
                    continue
                if ended:
                    return
                if not await _is_set_within(grown, HEARTBEAT_SECONDS):
                    yield HEARTBEAT

    async def growth(self, job_id: str, head: int, seconds: float) -> bool:
        """Wait until the log of a job is longer than `head`, at most so long. False if it is not, or at shutdown."""
        deadline = asyncio.get_running_loop().time() + seconds
        with self._watch(job_id) as watched:
            while watched.head <= head:
                grown, left = watched.grown, deadline - asyncio.get_running_loop().time()
                if self.is_closing or left <= 0 or not await _is_set_within(grown, left):
                    return False
            return not self.is_closing

    @contextmanager
    def _watch(self, job_id: str, streams: int = 0) -> Generator[_Watched]:
        watched = self._watched.setdefault(job_id, _Watched())
        watched.watchers += 1
        watched.streams += streams
        try:
            yield watched
        finally:
            watched.watchers -= 1
            watched.streams -= streams
            if not watched.watchers:
                del self._watched[job_id]

    async def _look(self) -> None:
        while not self.is_closing:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._watched:
                continue
            known = {job_id: watched.head for job_id, watched in self._watched.items()}
            streamed = {job_id for job_id, watched in self._watched.items() if watched.streams and watched.head}
            try:
                grown = await run_in_threadpool(self._find_growth, known, streamed)
                for job_id, (head, events) in grown.items():
                    if watched := self._watched.get(job_id):
                        _grow(watched, head, events)
            except SQLAlchemyError as error:
                log.warning("event streams wait, the database does not answer: %s", error)
            except Exception:
                # The cause may be gone at the next look. Without further looks, no stream would get any event.
                log.exception("event streams wait")

    def _find_growth(
        self, known: dict[str, int], streamed: Collection[str]
    ) -> dict[str, tuple[Head, list[LoggedEvent]]]:
        """For each job whose log is longer than is known: its head, and the new events if the job is `streamed`."""
        found: dict[str, tuple[Head, list[LoggedEvent]]] = {}
        with self._database.read() as session:
            for job_id, head in event_log.heads(session, list(known)).items():
                if head.event_seq > known[job_id]:
                    is_streamed = job_id in streamed
                    found[job_id] = (
                        head,
                        event_log.page(session, job_id, after=known[job_id], limit=PAGE) if is_streamed else [],
                    )
        return found

    def _read(self, job_id: str, after: int) -> tuple[Head, list[LoggedEvent]]:
        with self._database.read() as session:
            # The status is read first, so that the page surely has the event that ended the job.
            head = event_log.heads(session, [job_id])[job_id]
            return head, event_log.page(session, job_id, after=after, limit=PAGE)


def _grow(watched: _Watched, head: Head, events: list[LoggedEvent]) -> None:
    if watched.recent and (not events or events[0].seq != watched.recent[-1][0] + 1):
        watched.recent.clear()
    watched.recent.extend((event.seq, _frame(event)) for event in events)
    # What did not fit into the page is read at the next look. The page may already have events beyond the head.
    watched.head = min(events[-1].seq, head.event_seq) if len(events) == PAGE else head.event_seq
    watched.ended = head.status in TERMINAL and watched.head == head.event_seq
    watched.wake()


def _frame(event: LoggedEvent) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.type.encode(), written(event_json(event)))


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
