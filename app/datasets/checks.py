"""Checks the rows of a job before it is queued, with the same rules that training applies."""

# pyright: standard
# pyarrow carries no types.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from app.datasets.batch import ROWS
from app.datasets.columns import FILE, LINE, RESERVED
from app.specs import JobSpec
from app.specs.preflight import Findings, Survey
from app.specs.rows import RowProblem, row_problems
from app.specs.tasks import TaskSpec

SHOWN = 20
SHOWN_COLUMNS = 30

Rows = Path | BinaryIO | Sequence[Mapping[str, Any]]
"""One split: our Parquet, or the rows in the spec."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class DataProblem:
    """One thing wrong with a split. `param` is the field of the spec, such as `data.train`.

    `code` is missing_column, bad_row, no_usable_rows, classes or metric_unavailable; `row` counts from 1; `line` and
    `file` are its place in the upload, if that is known.
    """

    param: str
    split: str
    code: str
    message: str
    row: int | None = None
    line: int | None = None
    column: str | None = None
    file: str | None = None
    suggestion: str | None = None


@dataclass
class DataReport:
    """The result of a check.

    `total` is the number of problems, and `problems` has the first 20, or none if the data is usable. `checked` counts
    the rows that were checked and `skipped` the unusable rows that `on_bad_row: "skip"` leaves out, each by split.
    `is_complete` is False if a split has more rows than were checked. `classes` are those of train. `findings` is the
    report of `preflight` about usable rows.
    """

    problems: list[DataProblem] = field(default_factory=list[DataProblem])
    total: int = 0
    checked: dict[str, int] = field(default_factory=dict[str, int])
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    is_complete: bool = True
    classes: set[str] = field(default_factory=set[str])
    findings: Findings = field(default_factory=Findings)

    def add(self, problem: DataProblem) -> None:
        """Count a problem, and keep it if it is one of the first."""
        self.total += 1
        if len(self.problems) < SHOWN:
            self.problems.append(problem)


def check_rows(
    spec: JobSpec, train: Rows, eval_rows: Rows | None = None, test: Rows | None = None, *, row_limit: int
) -> DataReport:
    """Check columns and cells of up to `row_limit` rows of each split; only the role columns are read.

    With `on_bad_row: "skip"` unusable rows are counted, not problems. What the first rows of a longer split cannot
    show, such as the set of classes, is left to the job.
    """
    report = DataReport()
    splits = {"train": train, "eval": eval_rows, "test": test}
    given = {split: rows for split, rows in splits.items() if rows is not None}
    if not all([_has_columns(spec, split, rows, report) for split, rows in given.items()]):  # noqa: C419 - name them all
        return report
    known, survey = spec.task.class_names, Survey(spec.task, spec.columns)
    for split, rows in given.items():
        _check_split(spec, split, rows, row_limit, known, report, survey)
        if split == "train":
            if report.is_complete:
                _check_classes(spec.task, report)
            # Without all rows of train, or if all of them are bad, eval labels cannot be compared.
            known = known or (spec.task.learn(report.classes) if report.is_complete and report.classes else None)
    _check_groups(spec, survey, report)
    report.findings = survey.findings(is_complete=report.is_complete)
    return report


def _has_columns(spec: JobSpec, split: str, rows: Rows, report: DataReport) -> bool:
    names = _column_names(rows)
    missing = [(role, column) for role, column in spec.columns.items() if column not in names]
    for role, column in missing:
        report.add(DataProblem(f"data.{split}", split, "missing_column", _missing(role, column, names), column=column))
    return not missing


def _missing(role: str, column: str, names: Sequence[str]) -> str:
    near = get_close_matches(column, names, n=1)
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    hint = f"did you mean '{near[0]}'? " if near else ""
    return (
        f"there is no column '{column}' for the role {role}; {hint}"
        f"the columns are {', '.join(names[:SHOWN_COLUMNS])}{more}; name the right one in data.columns.{role}"
    )


def _check_split(
    spec: JobSpec,
    split: str,
    source: Rows,
    row_limit: int,
    known: Sequence[str] | None,
    report: DataReport,
    survey: Survey,
) -> None:
    watched = _Watched(_read(source, list(spec.columns.values())), spec, row_limit, split, survey)
    bad = 0
    for problem in row_problems(spec.task, split, watched.rows(), spec.columns, known):
        bad += watched.mark_bad()
        if spec.data.on_bad_row == "fail":
            report.add(_bad_row(problem))
        survey.bad(problem)
    report.checked[split], report.skipped[split] = watched.count, bad if spec.data.on_bad_row == "skip" else 0
    survey.skipped(split, report.skipped[split])
    report.is_complete = report.is_complete and not watched.is_cut
    if bad == watched.count and not watched.is_cut and spec.data.on_bad_row == "skip":
        message = f"none of the {watched.count:,} rows can be used"
        report.add(DataProblem(f"data.{split}", split, "no_usable_rows", message))
    elif split == "train":
        report.classes = survey.classes("train")


def _check_classes(task: TaskSpec, report: DataReport) -> None:
    # Rows that are reported as bad already explain why no class was found.
    reason = task.classes_fault(report.classes) if report.classes or not report.total else None
    if reason is not None:
        report.add(DataProblem("data.train", "train", "classes", reason))


def _check_groups(spec: JobSpec, survey: Survey, report: DataReport) -> None:
    # Default metrics that the rows do not allow are left out; only those that the spec names are refused.
    requested = [name for name in spec.requested_metrics if name in spec.task.group_metrics]
    if not requested or report.total or not report.is_complete or (fault := survey.group_fault()) is None:
        return
    split, reason = fault
    message = (
        f"'{requested[0]}' cannot be computed: {reason}; choose another metric, or leave the choice to the service"
    )
    report.add(DataProblem("evaluation.metrics", split, "metric_unavailable", message))


def _bad_row(problem: RowProblem) -> DataProblem:
    param = f"data.{problem.split}"
    return DataProblem(
        param, problem.split, "bad_row", str(problem), problem.row, problem.line, problem.column, problem.file
    )


class _Watched:
    """Rows on their way through the check: counted up to a limit, targets read, good rows surveyed."""

    def __init__(self, rows: Iterable[Row], spec: JobSpec, limit: int, split: str, survey: Survey) -> None:
        self._rows, self._task, self._limit, self._split, self._survey = iter(rows), spec.task, limit, split, survey
        self._target = None if spec.task.target_role is None else spec.columns[spec.task.target_role]
        self._is_bad = False
        self.count = 0
        self.is_cut = False

    def rows(self) -> Iterator[Row]:
        for row in islice(self._rows, self._limit):
            self.count += 1
            self._is_bad = False
            named = row if self._target is None else {**row, self._target: self._task.read(row.get(self._target))}
            yield named
            # When the generator resumes, the check has reported all problems of the row.
            if not self._is_bad:
                self._survey.row(self._split, self.count, named)
        self.is_cut = next(self._rows, None) is not None

    def mark_bad(self) -> int:
        """Mark the row just yielded; return 1 the first time, as rows are counted and not their faults."""
        was_good = not self._is_bad
        self._is_bad = True
        return int(was_good)


def _column_names(rows: Rows) -> list[str]:
    if isinstance(rows, Sequence):
        return list(dict.fromkeys(chain.from_iterable(rows)))
    return [name for name in pq.read_schema(rows).names if name not in RESERVED]


def _read(rows: Rows, columns: Sequence[str]) -> Iterator[Row]:
    if isinstance(rows, Sequence):
        yield from rows
        return
    with pq.ParquetFile(rows) as file:
        places = [name for name in (LINE, FILE) if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=ROWS, columns=[*dict.fromkeys(columns), *places], use_threads=False):
            yield from batch.to_pylist()
