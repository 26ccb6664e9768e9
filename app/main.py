"""The ASGI application: routers, lifespan, and the one place where errors become answers."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.api import artifacts, catalogue, datasets, events, jobs, system
from app.api.dependencies import Service
from app.datasets.local_copy import LocalCopies
from app.db import Database
from app.errors import InvalidRequest, MethodNotAllowed, NotFound, TunesmithError, Unavailable
from app.identifiers import new_id
from app.jobs.lifecycle import limits_of
from app.jobs.sweeper import Sweeper
from app.jobs.wakeup import open_wakeup
from app.settings import Settings
from app.specs import JobSpec
from app.storage import StorageError, open_storage

log = logging.getLogger(__name__)

DESCRIPTION = (
    "A self-hosted service for fine-tuning jobs: POST a job, watch it, download a checkpoint that transformers loads."
)

ROUTING_ERRORS: dict[int, type[TunesmithError]] = {404: NotFound, 405: MethodNotAllowed}
"""What Starlette's own routing refuses."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application; its parts open when it starts and close when it stops."""
    in_force = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        service = open_service(in_force)
        sweeper = Sweeper(
            service.database,
            limits_of(in_force),
            service.wakeup,
            interval=in_force.sweep_seconds,
            lease_seconds=in_force.lease_seconds,
        )
        app.state.service = service
        sweeper.start()
        yield
        sweeper.stop()
        service.database.close()

    app = FastAPI(title="Tunesmith", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    for module in (jobs, events, artifacts, datasets, catalogue, system):
        app.include_router(module.router)
    app.add_exception_handler(Exception, _unexpected)
    for kind in (
        TunesmithError,
        RequestValidationError,
        HTTPException,
        OperationalError,
        InterfaceError,
        PoolTimeout,
        StorageError,
    ):
        app.add_exception_handler(kind, _expected)
    app.add_middleware(RequestId)
    plain_openapi = app.openapi
    app.openapi = lambda: _with_job_spec(plain_openapi())  # type: ignore[method-assign]
    return app


def open_service(settings: Settings) -> Service:
    """Open the database, the storage and the broker of these settings."""
    storage = open_storage(settings.storage())
    return Service(
        settings=settings,
        database=Database(settings.database()),
        storage=storage,
        wakeup=open_wakeup(settings.broker_url),
        copies=LocalCopies(storage, settings.cache(), settings.cache_limit_bytes),
    )


class RequestId:
    """Gives every answer an `x-request-id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the header to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)


async def _expected(request: Request, error: Exception) -> Response:
    known = _translate(error)
    if known.status >= 500:  # noqa: PLR2004 - server errors
        log.warning("%s %s: %s", request.method, request.url.path, error)
    return JSONResponse(known.body(), status_code=known.status, headers=known.headers())


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette answers from outside every middleware here, so the id is added by hand.
    request_id = getattr(request.state, "request_id", "")
    log.error("%s %s failed (%s)", request.method, request.url.path, request_id, exc_info=error)
    known = TunesmithError(f"something went wrong inside the service; its log has the cause under {request_id}")
    return JSONResponse(known.body(), status_code=500, headers={"x-request-id": request_id})


def _translate(error: Exception) -> TunesmithError:
    if isinstance(error, TunesmithError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid_parameter(error)
    if isinstance(error, HTTPException):
        return ROUTING_ERRORS.get(error.status_code, InvalidRequest)(error.detail)
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeout)):
        return Unavailable("the database does not answer right now; try again", code="database_unavailable")
    return Unavailable("the storage does not answer right now; try again", code="storage_unavailable")


def _invalid_parameter(error: RequestValidationError) -> InvalidRequest:
    details = [
        {
            "param": str(item["loc"][-1]),
            "message": item["msg"].replace("Input should be", "must be"),
            "code": item["type"],
        }
        for item in error.errors()
    ]
    first = details[0]
    return InvalidRequest(
        f"'{first['param']}' {first['message']}", param=first["param"], code=first["code"], details=details
    )


def _with_job_spec(document: dict[str, Any]) -> dict[str, Any]:
    """Add the body that `app.api.body` reads by itself, which FastAPI cannot see."""
    schemas = document["components"]["schemas"]
    if "JobSpec" not in schemas:
        schema = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs"))
        schemas["JobSpec"] = schema
        body = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}}}
        for path in ("/v1/jobs", "/v1/jobs/validate"):
            document["paths"][path]["post"]["requestBody"] = body
    return document
