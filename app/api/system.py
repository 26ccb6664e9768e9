"""Liveness and readiness. No key is needed."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from app import migrate
from app.api.answers import Health
from app.api.context import ServiceContext, Streams
from app.api.json_answers import json_response
from app.api.shared_answer import SharedAnswer
from app.jobs.wakeup import CeleryWakeup
from app.workers import queries

log = logging.getLogger(__name__)
router = APIRouter(tags=["system"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Health:
    """Whether the process answers."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
async def readyz(request: Request, streams: Streams) -> Response:
    """Whether requests can be served: database, migrations and storage, as they were up to a second ago.

    Broker and workers are reported, but do not count.
    """
    shared: SharedAnswer[Readiness] = request.app.state.readiness
    found = await shared.get()
    required = {**found.required, **({"service": "stopping"} if streams.is_closing else {})}
    ready = all(outcome == "ok" for outcome in required.values())
    health = Health(status="ok" if ready else "unavailable", checks={**required, **found.reported})
    return json_response(health.model_dump(), status=200 if ready else 503)


class Readiness(NamedTuple):
    """Outcomes by check: `ok` or what is wrong."""

    required: dict[str, str]
    reported: dict[str, str]


def readiness(context: ServiceContext) -> Readiness:
    """Check all that requests need."""
    return Readiness(
        {
            "database": _outcome(context.database.check),
            "migrations": _outcome(lambda: _require_current(context)),
            "storage": _outcome(context.storage.check),
        },
        {"broker": _broker(context), "workers": _workers(context)},
    )


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:  # noqa: BLE001 - whatever a check raises, each library its own kind, is its outcome
        # The class is enough for a client; the text may contain addresses and belongs into the log.
        log.warning("a check failed: %s", error)
        return f"failed: {type(error).__name__}"
    return "ok"


def _require_current(context: ServiceContext) -> None:
    if not migrate.is_current(context.database):
        raise RuntimeError("the schema is not at the newest migration; run `tunesmith migrate`")


def _broker(context: ServiceContext) -> str:
    wakeup = context.wakeup
    return _outcome(wakeup.check) if isinstance(wakeup, CeleryWakeup) else "none: workers poll"


def _workers(context: ServiceContext) -> str:
    try:
        with context.database.read() as session:
            alive = queries.alive(session, silent_for=context.settings.lease_seconds)
    except SQLAlchemyError:
        return "unknown"
    return f"{len(alive)} alive"
