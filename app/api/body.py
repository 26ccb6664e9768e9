"""JSON bodies, read after the key was checked, counted while they arrive, and parsed strictly.

FastAPI would read the whole body before any dependency runs, take NaN and lone surrogates, and fail
on them only when it answers.
"""

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar, cast

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.api.dependencies import Parts, ProjectId
from app.errors import InvalidRequest, TooLarge
from app.specs.problems import dotted, problems

LARGEST_FLOAT = "1.8e308"
SHOWN_PROBLEMS = 20

Model = TypeVar("Model", bound=BaseModel)


def json_body(model: type[Model]) -> Callable[..., Awaitable[tuple[Model, Any]]]:
    """A dependency that gives the parsed model and the plain JSON that it came from."""

    async def read(request: Request, parts: Parts, project: ProjectId) -> tuple[Model, Any]:
        body = await _bytes(request, parts.settings.body_limit_bytes)
        return parse(model, body)

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
        return json.loads(body.decode("utf-8"), object_pairs_hook=_distinct, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start})", code="invalid_json") from None
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidRequest(
            message, code="invalid_json", details={"row": error.lineno, "column": error.colno}
        ) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply", code="invalid_json") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            shown = key.encode("ascii", "replace").decode()
            raise InvalidRequest(f"the field '{shown}' is given twice", param=shown, code="duplicate_field")
        result[key] = value
    return result


def _integer(digits: str) -> int | float:
    # Beyond a double's range it can fit no field; infinity then fails each field's own limit, which is named.
    if len(digits) > 300:  # noqa: PLR2004 - a double ends at 309 digits
        return -math.inf if digits.startswith("-") else math.inf
    return int(digits)


def _check(tree: Any) -> str | None:
    """Refuse NaN and lone surrogates anywhere; return the path of the first number beyond a double's range."""
    overflow: str | None = None
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), tree)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            for key, inner in cast("dict[str, Any]", value).items():
                if not _encodes(key):
                    _refuse_text(path)
                pending.append(((*path, key), inner))
        elif isinstance(value, list):
            pending += [((*path, index), inner) for index, inner in enumerate(cast("list[Any]", value))]
        elif isinstance(value, str):
            if not _encodes(value):
                _refuse_text(path)
        elif isinstance(value, float) and math.isnan(value):
            param = dotted(path)
            raise InvalidRequest(
                f"'{param}' is NaN; give a finite number, at most {LARGEST_FLOAT}", param=param, code="not_a_number"
            )
        elif isinstance(value, float) and math.isinf(value):
            overflow = dotted(path)
    return overflow


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _refuse_text(path: tuple[str | int, ...]) -> NoReturn:
    param = dotted(path)
    message = f"'{param}' holds half a surrogate pair or a NUL character; send whole Unicode characters"
    raise InvalidRequest(message, param=param, code="invalid_text")


def _refuse(error: ValidationError, tree: Any) -> NoReturn:
    found = problems(error, tree)
    first = found[0]
    details = [{"param": item.param, "message": item.message, "code": item.code} for item in found[:SHOWN_PROBLEMS]]
    where = f"'{first.param}' " if first.param else "the body "
    more = f" (and {len(found) - 1} more; see details)" if len(found) > 1 else ""
    raise InvalidRequest(
        f"{where}{first.message}{more}", param=first.param or None, code=first.code, details=details
    ) from None
