"""The one place where errors become responses."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from app.disk import NO_ROOM
from app.errors import (
    InsufficientStorage,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TunesmithError,
    Unavailable,
)
from app.specs.problems import sentence
from app.storage import ObjectNotFound, StorageError, StorageFull

log = logging.getLogger(__name__)

HTTP_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
DISK_FULL = "53100"
"""PostgreSQL's error code."""


def answer_errors(app: FastAPI) -> None:
    """Respond to the expected errors of every route with the envelope; `app.api.edge` handles all others."""
    for kind, translate in TRANSLATIONS.items():
        app.add_exception_handler(kind, _handler(translate))


def response_of(error: TunesmithError) -> JSONResponse:
    """The response to an error."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


def _handler(translate: "Translate") -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        known = translate(error, request)
        if known is None:
            raise error
        if known.status >= 500:  # noqa: PLR2004 - server errors
            log.warning("%s %s: %s", request.method, request.url.path, error)
        return response_of(known)

    return answer


def _routing_error(error: HTTPException, request: Request) -> TunesmithError:
    if error.status_code == MethodNotAllowed.status:
        return MethodNotAllowed(_allowed(request))
    if error.status_code == NotFound.status:
        return NotFound(
            "there is nothing at this address; GET /openapi.json lists all addresses, and none ends with a slash"
        )
    return InvalidRequest(error.detail)


def _allowed(request: Request) -> str:
    # An address such as /v1/jobs/validate has its own methods, and not those of an id with that name.
    if (own := request.app.openapi()["paths"].get(request.url.path)) is not None:
        named = [method for method in HTTP_METHODS if method.lower() in own]
        return ", ".join([*named, "HEAD"] if "GET" in named else named)
    scope: Scope = dict(request.scope)

    def takes(method: str) -> bool:
        routes = request.app.router.routes
        return any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)

    methods = [method for method in HTTP_METHODS if takes(method)]
    return ", ".join([*methods, "HEAD"] if "GET" in methods else methods)


def _database_error(error: DBAPIError, request: Request) -> TunesmithError:
    if getattr(error.orig, "sqlstate", None) == DISK_FULL or "disk is full" in str(error.orig):
        return InsufficientStorage()
    return _database_down(error, request)


def _database_down(error: Exception, _: Request) -> TunesmithError:
    return Unavailable("the database does not answer right now; try again", code="database_unavailable")


def _storage_error(error: StorageError, _: Request) -> TunesmithError:
    if isinstance(error, StorageFull):
        return InsufficientStorage()
    if isinstance(error, ObjectNotFound):
        return NotFound("its bytes are no longer in storage", code="object_not_found")
    return Unavailable("the storage does not answer right now; try again", code="storage_unavailable")


def _system_error(error: OSError, _: Request) -> TunesmithError | None:
    return InsufficientStorage() if error.errno in NO_ROOM else None


def _invalid_parameter(error: RequestValidationError, _: Request) -> InvalidRequest:
    details = [
        {
            "param": str(item["loc"][-1]),
            "message": sentence(item["msg"]),
            "code": item["type"],
        }
        for item in error.errors()
    ]
    first = details[0]
    return InvalidRequest(
        f"'{first['param']}' {first['message']}", param=first["param"], code=first["code"], details=details
    )


Translate = Callable[[Any, Request], TunesmithError | None]
TRANSLATIONS: dict[type[Exception], Translate] = {
    TunesmithError: lambda error, _: error,
    RequestValidationError: _invalid_parameter,
    HTTPException: _routing_error,
    OperationalError: _database_error,
    InterfaceError: _database_error,
    InternalError: _database_error,
    PoolTimeout: _database_down,
    StorageError: _storage_error,
    OSError: _system_error,
}
"""Errors that are not bugs of the service, and the response to each.

If the response is None, the error is a bug after all.
"""
