"""Rows on their way from a reader to the writer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ROWS = 20_000
BYTES = 8 << 20
"""A batch ends after this many rows, or bytes of the file. It becomes one row group."""


@dataclass(frozen=True)
class Batch:
    """Some rows by column.

    `start` is the number of its first row, from 1; `lines` holds each row's line in the file, from 1, for error
    messages. `marks` holds the values to store as `_line`. `columns` maps names to cells, one for each line: text for
    csv, JSON values for JSON.
    """

    start: int
    lines: Sequence[int]
    marks: Sequence[int]
    columns: dict[str, Sequence[Any]]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.lines)
