"""What every route needs: the open resources of the service, and the project of the key."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from app import auth
from app.api.hints import Hints
from app.api.parameters import only_known
from app.api.stream import Feed
from app.datasets.local_copy import LocalCopies
from app.db import Database
from app.jobs.wakeup import Wakeup
from app.settings import Settings
from app.storage import Storage
from app.webhooks.sender import Sender


@dataclass(frozen=True)
class ServiceContext:
    """The open resources of a running service."""

    settings: Settings
    database: Database
    storage: Storage
    wakeup: Wakeup
    hints: Hints
    copies: LocalCopies
    intake: asyncio.Semaphore
    """Limits how many uploads are parsed at the same time; the others wait."""
    sender: Sender


def _context(request: Request) -> ServiceContext:
    return request.app.state.context


Context = Annotated[ServiceContext, Depends(_context)]


def _project(
    request: Request, context: Context, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> str:
    with context.database.read() as session:
        project = auth.project_of(session, authorization)
    only_known(request)
    return project


def _feed(request: Request) -> Feed:
    return request.app.state.feed


Streams = Annotated[Feed, Depends(_feed)]

ProjectId = Annotated[str, Depends(_project)]
"""The project of the key.

Routes that depend on it refuse requests without a key, and query parameters that they do not declare.
"""
