"""JSON bodies: read after the key was checked, limited in size while they arrive, and parsed strictly.

FastAPI would read the whole body before any dependency runs. It would also accept NaN and lone surrogates, and fail on
them only when it responds.
"""

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar, cast

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from app.api.context import Context, ProjectId
from app.errors import InvalidRequest, TooLarge
from app.specs.problems import dotted, problems

LARGEST_FLOAT = "1.8e308"
INTEGER_DIGITS = 300
HUGE = 10**INTEGER_DIGITS
"""Replaces every integer with more digits.

It is close to the largest double, and is refused in every field that keeps it.
"""

DEPTH_LIMIT = 64
SHOWN_PROBLEMS = 20
SHOWN_NAME = 100

Path = tuple[str | int, ...]
"""The path of a value in the body."""

Model = TypeVar("Model", bound=BaseModel)


def json_body(model: type[Model], *, may_be_empty: bool = False) -> Callable[..., Awaitable[tuple[Model, Any]]]:
    """A dependency that gives the parsed model and its plain JSON. With `may_be_empty`, no body is the same as `{}`."""

    async def read(request: Request, context: Context, project: ProjectId) -> tuple[Model, Any]:
        body = await _bytes(request, context.settings.body_limit_bytes)
        if may_be_empty and not body.strip():
            body = b"{}"
        # Parsing two megabytes of JSON takes so long that it would delay every other request.
        return await run_in_threadpool(parse, model, body)

    return read


def parse(model: type[Model], body: bytes) -> tuple[Model, Any]:
    """Parse and validate. Raises InvalidRequest naming the field and the limit."""
    tree = _load(body)
    overflow = _check(tree)
    try:
        parsed = model.model_validate(tree)
    except ValidationError as error:
        _refuse(error, tree)
    if overflow is not None:
        raise InvalidRequest(
            f"'{overflow}' holds a number outside ±{LARGEST_FLOAT}", param=overflow, code="number_out_of_range"
        )
    return parsed, tree


async def _bytes(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    too_large = TooLarge(f"the body is larger than {limit} bytes; upload large data with POST /v1/datasets")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _load(body: bytes) -> Any:
    if not body.strip():
        raise InvalidRequest("the body is empty; send a JSON object", code="invalid_json")
    try:
        # A byte order mark is allowed, because some shells write one.
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=_distinct, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start})", code="invalid_json") from None
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidRequest(
            message, code="invalid_json", details={"row": error.lineno, "column": error.colno}
        ) from None
    except RecursionError:
        raise _too_deep() from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            shown = key[:SHOWN_NAME].encode("ascii", "replace").decode()
            raise InvalidRequest(f"the field '{shown}' is given twice", param=shown, code="duplicate_field")
        result[key] = value
    return result


def _integer(digits: str) -> int:
    # The limit of each field then refuses it by name. int() itself accepts at most 4300 digits.
    if len(digits) > INTEGER_DIGITS:
        return -HUGE if digits.startswith("-") else HUGE
    return int(digits)


def _check(tree: Any) -> str | None:
    """Refuse NaN, lone surrogates and deep nesting anywhere; return the path of a number beyond a double's range."""
    overflow: str | None = None
    pending: list[tuple[Path, Any]] = [((), tree)]
    while pending:
        path, value = pending.pop()
        if len(path) > DEPTH_LIMIT:
            raise _too_deep()
        if isinstance(value, dict):
            pending += [((*path, key), inner) for key, inner in cast("dict[str, Any]", value).items()]
            _check_text(path, *cast("dict[str, Any]", value))
        elif isinstance(value, list):
            pending += [((*path, index), inner) for index, inner in enumerate(cast("list[Any]", value))]
        elif isinstance(value, str):
            _check_text(path, value)
        elif isinstance(value, (int, float)) and not abs(value) < HUGE:
            _check_number(path, value)
            overflow = dotted(path)
    return overflow


def _check_text(path: Path, *texts: str) -> None:
    if not all(_encodes(text) for text in texts):
        message = f"{_named(path)} holds half a surrogate pair or a NUL character; send whole Unicode characters"
        raise InvalidRequest(message, param=dotted(path) or None, code="invalid_text")


def _check_number(path: Path, value: float) -> None:
    if math.isnan(value):
        message = f"{_named(path)} is NaN; give a finite number, at most {LARGEST_FLOAT}"
        raise InvalidRequest(message, param=dotted(path) or None, code="not_a_number")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body is nested deeper than {DEPTH_LIMIT} levels", code="too_deep")


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _named(path: Path) -> str:
    return f"'{dotted(path)}'" if path else "the body"


def _refuse(error: ValidationError, tree: Any) -> NoReturn:
    found = problems(error, tree)
    first = found[0]
    details = [{"param": item.param, "message": item.message, "code": item.code} for item in found[:SHOWN_PROBLEMS]]
    where = f"'{first.param}' " if first.param else "the body "
    more = f" (and {len(found) - 1} more; see details)" if len(found) > 1 else ""
    raise InvalidRequest(
        f"{where}{first.message}{more}", param=first.param or None, code=first.code, details=details
    ) from None
