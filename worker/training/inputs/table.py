"""The rows of one split: columns that are Arrow where they come from files, plain lists where they need not fit a type.

    Table({"text": <large_string>, "label": ["1 star", …], "_row": [1, 2, …], "_line": [2, 3, …]})

`_row` counts from 1 in the source; `_line` is the line in the user's file, where it is known, and `_file` the name
of that file, where there are several. They travel with the row through every selection, so that a problem can name the place that the user knows.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pyarrow as pa

Column = list[Any] | pa.ChunkedArray
Row = dict[str, Any]
BATCH = 1000
ROW, LINE, FILE = "_row", "_line", "_file"


@dataclass(frozen=True)
class Table:
    """Rows by column; all columns have the same length."""

    columns: dict[str, Column]
    class_names: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Columns of class ids, as some hub datasets have them, to the names of the classes."""
    commit: str | None = None
    """Of the hub dataset that the rows are of."""
    stream: Callable[[], Iterator["Table"]] | None = None
    """Where these are only the first rows of a stream: all of its rows, from the first one on, read as they are taken."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, places: Sequence[int]) -> "Table":
        """The rows at these places (from 0), in this order."""
        return replace(self, columns={name: _take(column, places) for name, column in self.columns.items()})

    def cells(self, column: str) -> list[Any]:
        """All cells of one column as Python values."""
        values = self.columns[column]
        return values if isinstance(values, list) else cast("list[Any]", values.to_pylist())

    def replaced(self, column: str, cells: list[Any]) -> "Table":
        """The same rows with other cells in one column."""
        return replace(self, columns={**self.columns, column: cells})

    def batches(self, size: int = BATCH) -> Iterator[list[Row]]:
        """The rows as objects, `size` at a time."""
        for start in range(0, len(self), size):
            parts = {name: _slice(column, start, size) for name, column in self.columns.items()}
            yield [dict(zip(parts, cells, strict=True)) for cells in zip(*parts.values(), strict=True)]


def from_arrow(table: pa.Table, class_names: Mapping[str, list[str]] | None = None, first: int = 1) -> Table:
    """Take all columns of an Arrow table, and number its rows from `first` on."""
    columns: dict[str, Column] = {name: _wide(name, table.column(name)) for name in table.column_names if name != ROW}
    columns[ROW] = pa.chunked_array([pa.array(range(first, first + table.num_rows), pa.int64())])
    return Table(columns, dict(class_names or {}))


def from_rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Take rows as they are written in a spec. A cell that a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row if name not in (ROW, LINE, FILE))
    columns: dict[str, Column] = {name: [row.get(name) for row in rows] for name in names}
    return Table({**columns, ROW: list(range(1, len(rows) + 1))})


def fingerprint(table: Table, columns: Iterable[str]) -> str:
    """SHA-256 in hex over the cells of these columns, row by row in order."""
    digest, wanted = hashlib.sha256(), list(columns)
    for batch in table.batches():
        for row in batch:
            digest.update(json.dumps([row[name] for name in wanted], default=str).encode() + b"\n")
    return digest.hexdigest()


def _take(column: Column, places: Sequence[int]) -> Column:
    if isinstance(column, list):
        return [column[place] for place in places]
    return column.take(pa.array(places, pa.int64()))


def _slice(column: Column, start: int, size: int) -> list[Any]:
    if isinstance(column, list):
        return column[start : start + size]
    return cast("list[Any]", column.slice(start, size).to_pylist())


def _wide(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    # Gathering rows of a `string` column fails past 2 GiB of text; `large_string` has no such bound.
    if pa.types.is_string(column.type):
        return column.cast(pa.large_string())
    if pa.types.is_dictionary(column.type) and name != FILE:
        return column.cast(column.type.value_type)
    return column
