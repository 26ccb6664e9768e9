"""What every route needs: the open resources of the service, and the project of the key."""

import asyncio
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
from app.api.rate_limits import RateLimits
from app.api.stream import Feed
from app.auth import Access, KeyCache, Role
from app.datasets.intake_slots import IntakeSlots
from app.datasets.local_copy import LocalCopies
from app.db import DATABASE_AWAY, Database
from app.errors import Forbidden, Unauthorized
from app.jobs.check_memory import CheckMemory
from app.jobs.queue_cache import QueueCache
from app.jobs.wakeup import Wakeup
from app.sealing import Sealer
from app.settings import Settings
from app.storage import Storage
from app.webhooks.sender import Sender

log = logging.getLogger(__name__)

STATEMENT_TIMED_OUT = "57014"
"""PostgreSQL's error code."""

READS = ("GET", "HEAD")
WITHOUT_EFFECT = ("/v1/jobs/validate",)
USED_SECONDS = 60.0
"""How old `last_used_at` of a key may be."""

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
    rates: RateLimits
    sealer: Sealer
    checks: CheckMemory = field(default_factory=CheckMemory)
    keys: KeyCache = field(default_factory=KeyCache)
    tasks: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])
    """What goes on after its response."""

    def used(self, access: Access) -> None:
        """Record in the background, at most once a minute, that a key was used."""
        if access.last_used_at is not None and time.time() - access.last_used_at < USED_SECONDS:
            return
        task = asyncio.create_task(run_in_threadpool(self._touch, access.key_id))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _touch(self, key_id: str) -> None:
        try:
            with self.database.write() as session:
                auth.touch(session, key_id)
        except DATABASE_AWAY as error:
            log.warning("the use of %s was not recorded: %s", key_id, error)

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


async def access(
    request: Request, context: Context, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> Access:
    """What the key gives access to. Raises Unauthorized, and Forbidden if its role is not enough for the method."""
    found = context.keys.access(authorization)
    if found is None:
        began = time.monotonic()
        try:
            found = await context.read(lambda session: auth.access_of(session, authorization))
        except Unauthorized:
            await context.rates.failed_sign_in(request.client.host if request.client else "")
            raise
        context.keys.keep(authorization, found, began)
        context.used(found)
    # The edge writes it to the audit log.
    request.state.access = found
    if (rate := await context.rates.request(found.key_id)) is not None:
        request.state.response_headers = rate.headers()
    changes = request.method not in READS and request.url.path not in WITHOUT_EFFECT
    if changes and not found.role.includes(Role.SUBMIT):
        raise Forbidden(f"this key has the role '{found.role}', and this needs '{Role.SUBMIT}'")
    only_known(request)
    return found


KeyAccess = Annotated[Access, Depends(access)]


async def admins_only(found: KeyAccess) -> Access:
    """The access of a key with the role `admin`. Raises Forbidden for any other.

    A router depends on it as a whole, so that it comes before the body is read.
    """
    if not found.role.includes(Role.ADMIN):
        raise Forbidden(f"this key has the role '{found.role}', and this needs '{Role.ADMIN}'")
    return found


async def _project(found: KeyAccess) -> str:
    return found.project_id


async def _feed(request: Request) -> Feed:
    return request.app.state.feed


Streams = Annotated[Feed, Depends(_feed)]

ProjectId = Annotated[str, Depends(_project)]
"""The project of the key.

Routes that depend on it refuse requests without a key, and query parameters that they do not declare.
"""
