"""Columns of a file: their description, and the names that they may have in every format."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from app.datasets.errors import UnusableFile

LINE = "_line"
"""A column that we add: the line of each row in the uploaded file."""

FILE = "_file"
"""A column that we add if an upload has several files: the name of the file that each row came from."""

RESERVED = {LINE: "line numbers", FILE: "file names"}

NAME_LIMIT = 300


@dataclass(frozen=True)
class Column:
    """A column: `type` is string, integer, number, boolean, list or object; `nulls` counts rows without a value.

    `distinct` counts different values, up to 1,000; above that it is None. `example` is the first value, truncated if
    it is long.
    """

    name: str
    type: str
    nulls: int
    distinct: int | None
    example: Any


def check_columns(names: Iterable[str], limit: int, line: int | None = None) -> None:
    """Raise UnusableFile if names are empty, duplicate, reserved or too long, or if there are too many."""
    seen: set[str] = set()
    for place, name in enumerate(names, start=1):
        if (fault := _fault(name, place, seen)) is not None:
            raise UnusableFile(fault, "header", line=line, column=name or None)
        seen.add(name)
    if len(seen) > limit:
        raise UnusableFile(f"there are {len(seen):,} columns, the limit is {limit:,}", "too_many_columns", line=line)


def _fault(name: str, place: int, seen: set[str]) -> str | None:
    if not name.strip():
        return f"column {place} has no name"
    if name in seen:
        return f"the column name '{name}' occurs twice"
    if name in RESERVED:
        return f"the column name '{name}' is reserved for {RESERVED[name]}; rename it or leave it out"
    if len(name) > NAME_LIMIT:
        return f"the name of column {place} is longer than {NAME_LIMIT} characters: '{name[:40]}…'"
    if not is_text(name):
        return f"the name of column {place} contains a lone surrogate or NUL, which is not valid text"
    return None


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8 and contains no NUL."""
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in name)


def json_safe(value: Any) -> Any:
    """A cell that every JSON reader and PostgreSQL accept: NaN and the infinities become null, NUL becomes U+FFFD."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [json_safe(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {json_safe(name): json_safe(member) for name, member in cast("dict[str, Any]", value).items()}
    return value
