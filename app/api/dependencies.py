"""What every route needs: the service's parts, and the project that the key opens."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from app import auth
from app.datasets.local_copy import LocalCopies
from app.db import Database
from app.jobs.wakeup import Wakeup
from app.settings import Settings
from app.storage import Storage


@dataclass(frozen=True)
class Service:
    """The parts of a running service."""

    settings: Settings
    database: Database
    storage: Storage
    wakeup: Wakeup
    copies: LocalCopies


def _service(request: Request) -> Service:
    return request.app.state.service


Parts = Annotated[Service, Depends(_service)]


def _project(parts: Parts, authorization: Annotated[str | None, Header(include_in_schema=False)] = None) -> str:
    with parts.database.read() as session:
        return auth.project_of(session, authorization)


ProjectId = Annotated[str, Depends(_project)]
