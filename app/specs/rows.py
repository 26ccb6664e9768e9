"""What makes a row usable. Pure Python, so that submit and training give the same answers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.specs.labels import label_name, ordered

LABEL_LIMIT = 1000
SHOWN_LABELS = 20


@dataclass(frozen=True)
class RowProblem:
    """One unusable row. `row` counts from 1; `line` is its place in the uploaded file, where there is one."""

    split: str
    row: int
    line: int | None
    column: str
    message: str

    def __str__(self) -> str:
        """Say where and what, as a person reads it."""
        line = f" (line {self.line} of the file)" if self.line is not None else ""
        return f"{self.split} row {self.row}{line}, column '{self.column}': {self.message}"


def text_classification_problems(
    split: str,
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    known_labels: Iterable[str] | None,
) -> Iterator[RowProblem]:
    """Yield what is wrong with each row of one split.

    `columns` maps the roles text, text_pair and label to column names. `known_labels` is None for
    train when its labels are learned from it; for eval and test it is the classes of train.
    A row's `_line` cell, where there is one, is its line in the source file.
    """
    known = None if known_labels is None else set(known_labels)
    for number, row in enumerate(rows, start=1):
        for role in ("text", "text_pair"):
            column = columns.get(role)
            if column is not None and (message := _text_problem(row.get(column))):
                yield RowProblem(split, number, row.get("_line"), column, message)
        column = columns["label"]
        if message := _label_problem(row.get(column), known):
            yield RowProblem(split, number, row.get("_line"), column, message)


def class_problem(names: Iterable[str]) -> str | None:
    """Say why a set of class names cannot be learned, or None."""
    count = len(set(names))
    if count < 2:  # noqa: PLR2004 - one class leaves nothing to tell apart
        return f"the label column holds {count} class; a classifier needs at least 2"
    if count > LABEL_LIMIT:
        return (
            f"the label column holds {count} classes, the limit is {LABEL_LIMIT}; "
            "is it the right column, or a number to regress on?"
        )
    return None


def _text_problem(cell: Any) -> str | None:
    if cell is None:
        return "no text"
    if not isinstance(cell, str):
        return f"text must be a string, this is {type(cell).__name__}"
    if not cell.strip():
        return "the text is empty"
    return None


def _label_problem(cell: Any, known: set[str] | None) -> str | None:
    name = label_name(cell)
    if name is None:
        return "no label"
    if known is not None and name not in known:
        shown = ", ".join(ordered(known)[:SHOWN_LABELS])
        return f"the label '{name}' is not one of the classes of train: {shown}"
    return None
