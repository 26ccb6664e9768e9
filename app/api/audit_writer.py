"""Writes the audit log. Entries of the same moment share a transaction, and no response waits for it."""

import asyncio
import logging

from starlette.concurrency import run_in_threadpool

from app.auth.audit import AuditedRequest, record
from app.db import DATABASE_AWAY, Database

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.1
MOST_WAITING = 10_000


class AuditWriter:
    """Only for the thread of one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[AuditedRequest] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, entry: AuditedRequest) -> None:
        """Store an entry in a moment. If the database does not answer, it goes to the log instead."""
        if len(self._waiting) >= MOST_WAITING:
            log.error("not in the audit log, because too many entries wait: %s", entry)
            return
        self._waiting.append(entry)
        if self._task is None:
            self._task = asyncio.create_task(self._write(), name="audit")

    async def flush(self) -> None:
        """Wait until everything added so far is stored."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _write(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(GATHER_SECONDS)
                batch, self._waiting = self._waiting, []
                await run_in_threadpool(self._store, batch)
        finally:
            self._task = None

    def _store(self, entries: list[AuditedRequest]) -> None:
        try:
            with self._database.write() as session:
                for entry in entries:
                    record(session, entry)
        except DATABASE_AWAY as error:
            # What was asked for is done or refused already.
            log.error("not in the audit log, because the database does not answer: %s (%s)", entries, error)  # noqa: TRY400
