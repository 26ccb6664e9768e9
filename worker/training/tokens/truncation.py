"""The place of a row in its source, and the rows that are too long."""

from typing import Any

from app.specs.rows import place
from worker.training.errors import RowTooLong
from worker.training.inputs.table import FILE, LINE, ROW, Row


def check_lengths(rows: list[Row], tokens: list[list[int]], max_length: int, column: str) -> None:
    """See that no row has more than `max_length` tokens. Raises RowTooLong."""
    for row, ids in zip(rows, tokens, strict=True):
        if len(ids) > max_length:
            details = {**place_of(row), "column": column}
            message = f"row {row[ROW]}{place(row.get(LINE), row.get(FILE))} has {len(ids)} tokens, more than max_length {max_length}"
            raise RowTooLong(message, details=details)


def place_of(row: Row) -> dict[str, Any]:
    """The number of a row, and its line and file where it came from one."""
    return {"row": row[ROW], **{name.removeprefix("_"): row[name] for name in (LINE, FILE) if name in row}}
