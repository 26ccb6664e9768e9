"""The rows of one split: columns that are Arrow where they come from files, plain lists where they need not fit a type.

    Table({"text": <large_string>, "label": ["1 star", …], "_row": [1, 2, …], "_line": [2, 3, …]})

`_row` counts from 1 in the source; `_line` is the line in the user's file, where it is known, and `_file` the name
of that file, where there are several. They travel with the row through every selection, so that a problem can name the place that the user knows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast, overload

import pyarrow as pa

Column = list[Any] | pa.ChunkedArray
Row = dict[str, Any]
BATCH = 1000
"""The number of rows that are turned into Python objects at a time."""
ROW, LINE, FILE = "_row", "_line", "_file"


@dataclass(frozen=True)
class Table:
    """Rows by column. All columns have the same length. Iterating gives the rows as objects."""

    columns: dict[str, Column]
    class_names: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Columns of class ids, as some hub datasets have them, to the names of the classes."""
    commit: str | None = None
    """Of the hub dataset that the rows are of."""
    stream: Callable[[], Iterator["Table"]] | None = None
    """Where these are only the first rows of a stream: all of its rows, from the first one on, read as they are taken."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), BATCH):
            yield from self[start : start + BATCH]

    @overload
    def __getitem__(self, part: str) -> list[Any]: ...

    @overload
    def __getitem__(self, part: slice) -> list[Row]: ...

    def __getitem__(self, part: str | slice) -> list[Any] | list[Row]:
        """All cells of one column as Python values, or the rows of a slice without a step."""
        if isinstance(part, str):
            return _cells(self.columns[part])
        start, stop, _ = part.indices(len(self))
        cells = {name: _cells(column[start:stop]) for name, column in self.columns.items()}
        return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]

    def select(self, places: Sequence[int]) -> "Table":
        """The rows at these places (from 0), in this order."""
        return replace(self, columns={name: _select(column, places) for name, column in self.columns.items()})


def _cells(column: Column) -> list[Any]:
    return column if isinstance(column, list) else cast("list[Any]", column.to_pylist())


def _select(column: Column, places: Sequence[int]) -> Column:
    if isinstance(column, list):
        return [column[place] for place in places]
    return column.take(pa.array(places, pa.int64()))
