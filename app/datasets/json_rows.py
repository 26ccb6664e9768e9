"""Reads JSON Lines, and one JSON array of objects (bare, or under "data"), a record at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from typing import Any, cast

from app.datasets.batch import BYTES, ROWS, Batch
from app.datasets.errors import UnusableFile
from app.datasets.json_stream import DuplicateKey, JsonStream, doubled, strict_decoder
from app.datasets.source import BLOCK, Source, bad_utf8, is_bad

NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


@dataclass(frozen=True)
class Record:
    """One row: its number, the line where it starts, its length in bytes or characters, and its members."""

    row: int
    line: int
    size: int
    members: dict[str, Any]


def json_lines(source: Source) -> Iterator[Batch]:
    """Yield the rows of a file with one object a line; blank lines are left out. Raises UnusableFile."""
    return _batched(_records_of_lines(source), source.limits.columns, by_row=False)


def json_array(source: Source) -> Iterator[Batch]:
    """Yield the rows of a file that is one array of objects. Raises UnusableFile.

    `_line` is the number of the row, because such a file may be a single line.
    """
    return _batched(_records_of_array(source), source.limits.columns, by_row=True)


def _records_of_lines(source: Source) -> Iterator[Record]:
    decode = strict_decoder().decode
    row = 0
    with source.open() as watched:
        offset = watched.offset
        for line, raw in enumerate(BufferedReader(watched, BLOCK), start=1):
            if not raw.isspace():
                row += 1
                try:
                    value = decode(raw.decode())
                except UnicodeDecodeError as error:
                    column = _bad_column(raw)
                    raise bad_utf8(line, offset + error.start, raw[error.start], row, column) from None
                except (ValueError, RecursionError) as error:
                    raise _invalid(error, row, line) from None
                yield Record(row, line, len(raw), _members(value, row, line))
            offset += len(raw)


def _bad_column(raw: bytes) -> str | None:
    try:
        value = json.loads(raw.decode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    members = cast("dict[str, Any]", value).items() if isinstance(value, dict) else ()
    return next((name for name, member in members if is_bad(str(member))), None)


def _records_of_array(source: Source) -> Iterator[Record]:
    stream = JsonStream(source)
    try:
        for row, (line, size, value) in enumerate(stream.rows(), start=1):
            yield Record(row, line, size, _members(value, row, line))
    except UnicodeDecodeError:
        raise source.find_bad_utf8() from None


def _batched(records: Iterator[Record], most: int, *, by_row: bool) -> Iterator[Batch]:
    held: list[Record] = []
    size = 0
    for record in records:
        held.append(record)
        size += record.size
        if len(held) == ROWS or size > BYTES:
            yield _batch(held, most, by_row=by_row)
            held, size = [], 0
    if held:
        yield _batch(held, most, by_row=by_row)


def _batch(records: list[Record], most: int, *, by_row: bool) -> Batch:
    rows = [record.members for record in records]
    names = dict.fromkeys(chain.from_iterable(rows))
    if len(names) > most:
        raise UnusableFile(f"there are more than {most:,} columns", "too_many_columns", line=records[-1].line)
    lines = [record.line for record in records]
    marks = [record.row for record in records] if by_row else lines
    return Batch(records[0].row, lines, marks, {name: [row.get(name) for row in rows] for name in names})


def _members(value: Any, row: int, line: int) -> dict[str, Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    message = f"line {line}: row {row} is {NAMES[type(value)]}, it must be an object of column name to value"
    raise UnusableFile(message, "not_an_object", row=row, line=line)


def _invalid(error: Exception, row: int, line: int) -> UnusableFile:
    if isinstance(error, RecursionError):
        return UnusableFile(f"line {line} is nested too deep", "too_deep", row=row, line=line)
    if isinstance(error, DuplicateKey):
        return doubled(error.key, row, line)
    if not isinstance(error, json.JSONDecodeError):
        return UnusableFile(f"line {line}: {error}", "invalid_json", row=row, line=line)
    hint = "this file is one JSON array: name it .json" if row == 1 and error.doc.lstrip().startswith("[") else None
    place = f"line {line}, character {error.pos + 1}"
    return UnusableFile(f"{place} is not JSON: {error.msg}", "invalid_json", row=row, line=line, hint=hint)
