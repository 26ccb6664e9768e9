"""Turns pydantic's errors into (param, message, code) as the API reports them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError

SHOWN_NAME = 100
UNION_ERRORS = ("union_tag_invalid", "union_tag_not_found")
"""The error types of pydantic for a missing or unknown `type` in a union that it discriminates."""
SUBJECT = re.compile(r"^(Input|String|List|Dictionary) should ")
OBJECT = re.compile(r"a valid dictionary( or instance of \w+)?")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a body. `param` is a dotted path into it, such as `data.train.rows[3]`."""

    param: str
    message: str
    code: str


def problems(error: ValidationError, body: Any) -> list[Problem]:
    """List the problems, one entry for each field; alternatives of a union are joined by "or".

    Union tags and member names that pydantic adds to its paths are dropped; only names that exist in `body` stay.
    """
    found: dict[str, Problem] = {}
    for item in error.errors(include_url=False, include_input=False):
        kind, context = item["type"], item.get("ctx", {})
        path = _real_path(item["loc"], body, is_missing=kind == "missing")
        if kind in UNION_ERRORS:
            path, item["msg"] = [*path, "type"], _tags(kind, context)
        if "field" in context:
            # Raised by a model about one of its fields, which pydantic's own path leaves out.
            path = [*path, *context["field"].split(".")] if kind == "misfit" else [*path, context["field"]]
        param, message = dotted(path), sentence(item["msg"])
        known = found.get(param)
        if known is None:
            found[param] = Problem(param, message, kind)
        elif message not in known.message:
            found[param] = Problem(param, f"{known.message}, or: {message}", known.code)
    return list(found.values())


def _tags(kind: str, context: dict[str, Any]) -> str:
    if kind == "union_tag_not_found":
        return "is required"
    known: list[str] = re.findall(r"'([^']+)'", context["expected_tags"])
    near = get_close_matches(str(context["tag"]), known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"must be one of {', '.join(known)}{hint}"


def dotted(path: Iterable[str | int]) -> str:
    """Write a path as `a.b[2].c`; a name of more than 100 characters is truncated."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if len(step) <= SHOWN_NAME else f"{step[:SHOWN_NAME]}…"
            text += f".{name}" if text else name
    return text


def sentence(message: str) -> str:
    """Rewrite a message of pydantic so that it continues a sentence after the name of a field."""
    message = message.removeprefix("Value error, ").replace("Field required", "is required")
    message = SUBJECT.sub("must ", message).replace(" after validation", "")
    return OBJECT.sub("an object", message)


def _real_path(location: tuple[int | str, ...], body: Any, *, is_missing: bool) -> list[int | str]:
    path: list[int | str] = []
    here: Any = body
    for index, step in enumerate(location):
        if isinstance(here, dict) and step in here:
            here = cast("dict[Any, Any]", here)[step]
            path.append(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(cast("list[Any]", here)):
            here = cast("list[Any]", here)[step]
            path.append(step)
        elif is_missing and index == len(location) - 1:
            path.append(step)
    return path
