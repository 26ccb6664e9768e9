"""What every route needs: the open resources of the service, and the project of the key."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import auth
from app.api.hints import Hints
from app.api.parameters import only_known
from app.api.stream import Feed
from app.auth import KeyCache
from app.datasets.intake_slots import IntakeSlots
from app.datasets.local_copy import LocalCopies
from app.db import Database
from app.jobs.check_memory import CheckMemory
from app.jobs.queue_cache import QueueCache
from app.jobs.wakeup import Wakeup
from app.settings import Settings
from app.storage import Storage
from app.webhooks.sender import Sender

log = logging.getLogger(__name__)

STATEMENT_TIMED_OUT = "57014"
"""PostgreSQL's error code."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ServiceContext:
    """The open resources of a running service."""

    settings: Settings
    database: Database
    storage: Storage
    wakeup: Wakeup
    hints: Hints
    copies: LocalCopies
    intake: IntakeSlots
    sender: Sender
    queue: QueueCache
    checks: CheckMemory = field(default_factory=CheckMemory)
    keys: KeyCache = field(default_factory=KeyCache)

    async def read(self, query: Callable[[Session], Answer]) -> Answer:
        """Run a short query on the event loop, or in a thread if it has to wait for the database."""
        try:
            return await self.database.glance(query)
        except OperationalError as error:
            # SQLite is locked, or PostgreSQL has restarted. Any other error is raised again by the thread.
            if getattr(error.orig, "sqlstate", None) == STATEMENT_TIMED_OUT:
                raise
        except PoolTimeout:
            log.warning("all connections for short reads are in use; a read goes to a thread")
        return await self.read_in_thread(query)

    async def read_in_thread(self, query: Callable[[Session], Answer]) -> Answer:
        """Run a query that may take long."""
        return await run_in_threadpool(self.read_here, query)

    def read_here(self, query: Callable[[Session], Answer]) -> Answer:
        """Run a query in the calling thread."""
        with self.database.read() as session:
            return query(session)

    def entered(self, queue: str) -> None:
        """Pass on that a job was put into this queue. It must be committed."""
        self.queue.forget()
        self.hints.give(queue)


# Dependencies are coroutines, because FastAPI would run a plain function in a thread.
async def _context(request: Request) -> ServiceContext:
    return request.app.state.context


Context = Annotated[ServiceContext, Depends(_context)]


async def _project(
    request: Request, context: Context, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> str:
    project = context.keys.project(authorization)
    if project is None:
        began = time.monotonic()
        project = await context.read(lambda session: auth.project_of(session, authorization))
        context.keys.keep(authorization, project, began)
    only_known(request)
    return project


async def _feed(request: Request) -> Feed:
    return request.app.state.feed


Streams = Annotated[Feed, Depends(_feed)]

ProjectId = Annotated[str, Depends(_project)]
"""The project of the key.

Routes that depend on it refuse requests without a key, and query parameters that they do not declare.
"""
