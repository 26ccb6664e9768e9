"""Which rows of a split are unusable, and why. Pure Python, so that submit and training give the same answers."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.specs.tasks.base import TaskSpec


@dataclass(frozen=True)
class RowProblem:
    """One unusable row.

    `row` counts from 1; `line` is its place in the uploaded file, if there is one. `file` names the file if the dataset
    has several.
    """

    split: str
    row: int
    line: int | None
    column: str
    message: str
    file: str | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        """The place and the problem, in words."""
        return f"{self.split} row {self.row}{place(self.line, self.file)}, column '{self.column}': {self.message}"


def place(line: int | None, file: str | None) -> str:
    """The place of a row in the uploaded files, as " (line 3 of 'b.csv')"; empty if it is not known."""
    if line is None:
        return ""
    return f" (line {line} of {'the file' if file is None else repr(file)})"


def row_problems(
    task: TaskSpec,
    split: str,
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    known: Iterable[str] | None,
) -> Iterator[RowProblem]:
    """Yield the problems of each row of one split, whose targets were read.

    `columns` maps role to column name. `known` are the classes that may occur, None while they are learned from train.
    The `_line` and `_file` cells of a row, if there are any, are its place in the uploaded files.
    """
    classes: Collection[str] | None = None if known is None else dict.fromkeys(known)
    for number, row in enumerate(rows, start=1):
        for role, message in task.faults(row, columns, classes):
            suggestion = message.partition("; ")[2] or None
            yield RowProblem(split, number, row.get("_line"), columns[role], message, row.get("_file"), suggestion)
