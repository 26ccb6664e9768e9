"""Liveness and readiness. No key is needed."""

import logging
from collections.abc import Callable

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from app import migrate
from app.api.answers import Health
from app.api.context import Context, ServiceContext, Streams
from app.jobs.wakeup import CeleryWakeup
from app.workers import queries

log = logging.getLogger(__name__)
router = APIRouter(tags=["system"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Health:
    """Whether the process answers."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
def readyz(context: Context, streams: Streams, response: Response) -> Health:
    """Whether requests can be served: database, migrations and storage.

    Broker and workers are reported, but do not count.
    """
    required = {
        "database": _outcome(context.database.check),
        "migrations": _outcome(lambda: _require_current(context)),
        "storage": _outcome(context.storage.check),
    }
    reported = {"broker": _broker(context), "workers": _workers(context)}
    if streams.is_closing:
        required["service"] = "stopping"
    ready = all(outcome == "ok" for outcome in required.values())
    response.status_code = 200 if ready else 503
    return Health(status="ok" if ready else "unavailable", checks={**required, **reported})


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
