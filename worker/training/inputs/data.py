"""Reads, splits, samples and checks the rows of a job. The result is exactly what is trained on and evaluated."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from sklearn.model_selection import train_test_split

from app.specs import JobSpec
from app.specs.labels import SHOWN_LABELS
from app.specs.preflight import Survey
from app.specs.rows import RowProblem, row_problems
from worker.training.errors import (
    SHOWN_PROBLEMS,
    BadRows,
    ClassUnknown,
    MetricUnavailable,
    NoRows,
    SingleClass,
    Stopped,
    TooManyClasses,
)
from worker.training.inputs.sources import read
from worker.training.inputs.table import BATCH, ROW, Row, Table
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest

SPLITS = ("train", "eval", "test")


@dataclass(frozen=True)
class Data:
    """The rows used, by split, and what is known of them."""

    splits: dict[str, Table]
    labels: list[str]
    hashes: dict[str, str]
    commits: dict[str, str]
    """Split to the commit of its hub dataset."""
    skipped: int
    metrics: list[str]
    """The metrics of the spec that the evaluated rows allow."""


def load_data(request: TrainingRequest, report: Reporter, stop: threading.Event) -> Data:
    """Read all rows of every split that the spec names, hold out eval rows, take the subsets, and check the rows used.

    Raises the errors of `sources.read`, and BadRows, NoRows, MetricUnavailable, SingleClass, TooManyClasses, ClassUnknown or Stopped.
    """
    spec, tables = request.spec, _read_splits(request, report)
    labels = _learn_labels(spec, tables["train"])
    chosen = {split: _subset(spec, split, table) for split, table in _hold_out(tables, spec, report).items()}
    survey = Survey(spec.task, spec.columns)
    checked = {split: _usable(split, table, spec, labels, survey, report, stop) for split, table in chosen.items()}
    _report_findings(survey, checked, report)
    # The first rows of a stream may well be of one class.
    _check_classes(spec, labels, survey.classes("train") if tables["train"].stream is None else set(labels))
    if labels and spec.task.class_names is None:
        more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
        report.note(f"{len(labels)} classes were learned from train: {', '.join(labels[:SHOWN_LABELS])}{more}")
    return Data(
        splits=checked,
        labels=labels,
        hashes={split: _hash(table, spec) for split, table in checked.items()},
        commits={split: table.commit for split, table in tables.items() if table.commit is not None},
        skipped=sum(len(chosen[split]) - len(checked[split]) for split in chosen),
        metrics=_metrics(spec, survey, report),
    )


def _read_splits(request: TrainingRequest, report: Reporter) -> dict[str, Table]:
    spec = request.spec
    named = {split: getattr(spec.data, split) for split in SPLITS}
    columns, pinned = spec.columns, request.resolved.dataset_commits if request.resolved else {}
    tables = {
        split: read(split, source, request.datasets, columns, report, pinned.get(split))
        for split, source in named.items()
        if source is not None
    }
    return {split: read_targets(spec, table) for split, table in tables.items()}


def read_targets(spec: JobSpec, table: Table) -> Table:
    """The rows with targets as the task reads them, such as class names instead of ids."""
    role = spec.task.target_role
    if role is None:
        return table
    column = spec.columns[role]
    names, known = table.class_names.get(column), dict[tuple[type, str], Any]()
    cells: list[Any] = []
    for cell in table[column]:
        if isinstance(cell, list):
            # Hardly two are alike, and each would add a long key.
            cells.append(spec.task.read(cell, names))
            continue
        # One object a class, however many rows; 1, 1.0 and True are equal, so the type is part of the key.
        key = (type(cell), repr(cell))
        if key not in known:
            known[key] = spec.task.read(cell, names)
        cells.append(known[key])
    return replace(table, columns={**table.columns, column: cells})


def _hash(table: Table, spec: JobSpec) -> str:
    """SHA-256 in hex over the cells of the roles, row by row in order."""
    digest, wanted = hashlib.sha256(), list(spec.columns.values())
    for row in table:
        digest.update(json.dumps([row[name] for name in wanted], default=str).encode() + b"\n")
    if table.stream is None:
        return digest.hexdigest()
    # The later rows follow from the commit and the source.
    identity = json.dumps([spec.data.train.model_dump(mode="json"), table.commit, digest.hexdigest()], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def _learn_labels(spec: JobSpec, train: Table) -> list[str]:
    # The spec's, else a hub dataset's own, else those that occur.
    task, role = spec.task, spec.task.target_role
    if role is None or not task.has_classes:
        return []
    if task.class_names:
        return list(task.class_names)
    if named := train.class_names.get(spec.columns[role]):
        return list(named)
    learned = task.learn(_seen(spec, train))
    if learned and train.stream is not None:
        raise ClassUnknown(
            "train is streamed, so its classes cannot be learned from its rows, and the dataset does not name them",
            "Name them in task.labels.",
        )
    return learned


def _seen(spec: JobSpec, train: Table) -> set[str]:
    # Rows at fault have cells of any kind; they are reported later.
    task, columns = spec.task, spec.columns
    role = task.target_role
    return {
        name
        for row in train
        if role is not None and not any(at == role for at, _ in task.faults(row, columns, None))
        for name in task.classes(row[columns[role]])
    }


def _check_classes(spec: JobSpec, labels: list[str], present: set[str]) -> None:
    message = spec.task.classes_fault(present) or spec.task.classes_fault(labels)
    if message:
        raise (SingleClass if len(present) <= 1 else TooManyClasses)(f"train: {message}")


def _report_findings(survey: Survey, checked: dict[str, Table], report: Reporter) -> None:
    for split, table in checked.items():
        for row in table:
            survey.row(split, cast("int", row[ROW]), row)
    is_streamed = checked["train"].stream is not None
    if is_streamed:
        report.note(f"train is streamed; these findings are about its first {len(checked['train'])} rows")
    findings = survey.findings(is_complete=not is_streamed)
    # The list replaces that of an earlier attempt, also where it is empty.
    report.preflight(data=findings, warnings=report.warnings)
    for warning in findings["warnings"]:
        report.warn(warning["message"])


def _metrics(spec: JobSpec, survey: Survey, report: Reporter) -> list[str]:
    fault, group_metrics = survey.group_fault(), spec.task.group_metrics
    if fault is None or not set(spec.metrics) & set(group_metrics):
        return list(spec.metrics)
    _, reason = fault
    for name in spec.requested_metrics:
        if name in group_metrics:
            raise MetricUnavailable(f"'{name}' cannot be computed: {reason}")
    unavailable = [name for name in spec.metrics if name in group_metrics]
    report.note(f"not computed: {', '.join(unavailable)}; {reason}")
    return [name for name in spec.metrics if name not in unavailable]


def _hold_out(tables: dict[str, Table], spec: JobSpec, report: Reporter) -> dict[str, Table]:
    fraction = spec.data.eval_fraction
    if fraction is None:
        return tables
    train = tables["train"]
    if len(train) < 2:  # noqa: PLR2004 - one row for each side
        raise NoRows(f"train has {len(train)} rows, too few to hold out a share for evaluation")
    kept, held = _divide(train, fraction, spec.data.subset.seed, _strata(spec, train), _groups(spec, train), report)
    return {**tables, "train": train.select(sorted(kept)), "eval": train.select(sorted(held))}


def _strata(spec: JobSpec, table: Table) -> list[str] | None:
    role = spec.task.target_role
    strata = [] if role is None else [spec.task.stratum(cell) for cell in table[spec.columns[role]]]
    return None if not strata or None in strata else cast("list[str]", strata)


def _groups(spec: JobSpec, table: Table) -> list[str] | None:
    role = spec.task.group_role
    return None if role is None else [str(cell) for cell in table[spec.columns[role]]]


def _divide(
    table: Table, fraction: float, seed: int, strata: list[str] | None, groups: list[str] | None, report: Reporter
) -> tuple[list[int], list[int]]:
    if groups is not None:
        return _divide_groups(groups, fraction, seed)
    split = cast("Callable[..., list[list[int]]]", train_test_split)
    places, count = list(range(len(table))), min(max(1, round(len(table) * fraction)), len(table) - 1)
    if strata is not None:
        try:
            kept, held = split(places, test_size=count, random_state=seed, stratify=strata)
        except ValueError:
            report.note("eval rows were held out without regard to their labels: some labels have too few rows")
        else:
            return kept, held
    kept, held = split(places, test_size=count, random_state=seed)
    return kept, held


def _divide_groups(groups: list[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    names = list(dict.fromkeys(groups))
    if len(names) < 2:  # noqa: PLR2004 - one group for each side
        raise NoRows("all rows of train belong to one group, so none can be held out for evaluation", "Give data.eval.")
    count = min(max(1, round(len(names) * fraction)), len(names) - 1)
    held = {names[place] for place in np.random.default_rng(seed).permutation(len(names))[:count]}
    places = range(len(groups))
    return [place for place in places if groups[place] not in held], [
        place for place in places if groups[place] in held
    ]


def _subset(spec: JobSpec, split: str, table: Table) -> Table:
    wanted: int | None = getattr(spec.data.subset, split)
    if wanted is None:
        return table
    # The order of `datasets.Dataset.shuffle(seed)`, so that a subset is the one of the tutorials.
    order = np.random.default_rng(spec.data.subset.seed).permutation(len(table))
    return table.select([int(place) for place in order[:wanted]])


def _usable(
    split: str,
    table: Table,
    spec: JobSpec,
    labels: list[str],
    survey: Survey,
    report: Reporter,
    stop: threading.Event,
) -> Table:
    shown: list[RowProblem] = []
    bad: set[int] = set()
    count = 0
    for place, problem in _problems(split, table, spec, labels, stop):
        bad.add(place)
        survey.bad(problem)
        count += 1
        if len(shown) < SHOWN_PROBLEMS:
            shown.append(problem)
    if bad and spec.data.on_bad_row == "fail":
        raise BadRows.of(shown, count)
    if len(bad) == len(table):
        why = f"; the first problem: {shown[0]}" if shown else ""
        raise NoRows(f"{split} has no usable rows{why}")
    survey.skipped(split, len(bad))
    if not bad:
        return table
    report.note(f"{len(bad)} of {len(table)} {split} rows were skipped; the first: {shown[0]}")
    return table.select([place for place in range(len(table)) if place not in bad])


def _problems(
    split: str, table: Table, spec: JobSpec, labels: list[str], stop: threading.Event
) -> Iterator[tuple[int, RowProblem]]:
    for start in range(0, len(table), BATCH):
        if stop.is_set():
            raise Stopped
        batch = table[start : start + BATCH]
        for problem in row_problems(spec.task, split, batch, spec.columns, labels or None):
            yield start + problem.row - 1, replace(problem, row=_source_row(batch, problem))


def _source_row(batch: list[Row], problem: RowProblem) -> int:
    # Problems count within their batch; a person counts in the file.
    return cast("int", cast("dict[str, Any]", batch[problem.row - 1])[ROW])
