"""Where a row stands, and which are too long to be taken whole."""

from typing import Any

from worker.training.errors import RowTooLong
from worker.training.table import LINE, ROW, Row


def check_lengths(rows: list[Row], tokens: list[list[int]], max_length: int, column: str) -> None:
    """See that no row has more than `max_length` tokens. Raises RowTooLong."""
    for row, ids in zip(rows, tokens, strict=True):
        if len(ids) > max_length:
            line = f" (line {row[LINE]} of the file)" if row.get(LINE) is not None else ""
            details = {"row": row[ROW], "line": row.get(LINE), "column": column}
            message = f"row {row[ROW]}{line} has {len(ids)} tokens, more than max_length {max_length}"
            raise RowTooLong(message, details=details)


def place_of(row: Row) -> dict[str, Any]:
    """The number of a row, and its line where it came from a file."""
    return {"row": row[ROW], **({"line": row[LINE]} if LINE in row else {})}
