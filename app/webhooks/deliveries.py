"""Sends the deliveries of the outbox, in the background of an API process.

Every API process runs one. Database work has two threads of its own, and each webhook only a few tries at a time. A
receiver that is slow or gone blocks no request, no job and no other receiver.
"""

import asyncio
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.sealing import Sealer
from app.webhooks import message, queries, tries
from app.webhooks.queries import Waiting
from app.webhooks.sender import Outcome, Sender
from app.webhooks.tries import Claim

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
TRIES_EACH = 4
"""Concurrent tries to one webhook; each is for a different job."""
TRIES_IN_ALL = 100
STOP_SECONDS = 5.0
"""When the process stops, deliveries in progress have this long to end. Another process sends the rest again."""


class Deliveries:
    """Looks for due deliveries and sends them. Made and closed on the event loop."""

    def __init__(self, database: Database, sender: Sender, sealer: Sealer) -> None:
        self._database, self._sender, self._sealer = database, sender, sealer
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="webhooks")
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task = asyncio.create_task(self._look(), name="webhooks")

    async def close(self) -> None:
        """Start no more deliveries, and give those in progress a little time."""
        self._is_closing = True
        self._wake.set()
        await self._task
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._executor.shutdown(wait=False)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_closing:
            self._wake.clear()
            try:
                claims = await loop.run_in_executor(self._executor, self._claim, Counter(self._under_way.values()))
                for claimed in claims:
                    self._under_way[asyncio.create_task(self._deliver(claimed))] = claimed.webhook_id
            except SQLAlchemyError as error:
                log.warning("webhooks wait, the database does not answer: %s", error)
            except Exception:
                # The cause may be gone the next time. Without further tries, nothing would be sent.
                log.exception("the look for due webhooks failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)

    def _claim(self, under_way: Counter[str]) -> list[Claim]:
        with self._database.read() as session:
            waiting = queries.due(session, each=TRIES_EACH, in_flight=under_way)
        room = max(0, TRIES_IN_ALL - under_way.total())
        return [claimed for item in waiting[:room] if (claimed := self._take(item)) is not None]

    def _take(self, waiting: Waiting) -> Claim | None:
        # Each claim is a separate transaction. Processes that take several rows in different orders would deadlock.
        with self._database.write() as session:
            return tries.claim(session, waiting)

    async def _deliver(self, claimed: Claim) -> None:
        try:
            delivery = message.of_job(claimed)
            outcome = await self._sender.post(
                claimed.url, message.headers(delivery, self._sealer.open(claimed.secret)), delivery.body
            )
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, self._record, claimed, outcome)
        except SQLAlchemyError as error:
            log.warning("event %s of %s is sent once more: %s", claimed.seq, claimed.job_id, error)
        except Exception:
            # Its claim runs out, and it is tried again.
            log.exception("event %s of %s could not be sent", claimed.seq, claimed.job_id)
        finally:
            task = asyncio.current_task()
            if task is not None:
                del self._under_way[task]
            self._wake.set()

    def _record(self, claimed: Claim, outcome: Outcome) -> None:
        with self._database.write() as session:
            tries.record(session, claimed, outcome)
