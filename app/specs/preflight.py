"""What is known about a job's rows before training: unusable rows, the class distribution, and rows in two splits.

Pure Python: submit checks the first rows of each split, and training checks all rows that it uses.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from app.specs.rows import RowProblem
from app.specs.suspicions import header_warnings, similar_names
from app.specs.tasks.base import Columns, TaskSpec

SHOWN = 20
SHOWN_CLASSES = 100
DRIFT = 0.1
"""A smaller total variation distance between class distributions is not reported, whatever the number of rows."""
IMBALANCE = 20
"""A warning is given if the largest class has this many times the rows of the smallest."""

Findings = dict[str, Any]


class Survey:
    """Collects facts about the rows of a job as they pass, train first."""

    def __init__(self, task: TaskSpec, columns: Columns) -> None:
        self._task, self._columns = task, columns
        answers = {role.name for role in task.known_roles if role.is_answer}
        self._inputs = [column for role, column in columns.items() if role not in answers]
        self._target = None if task.target_role is None else columns[task.target_role]
        self._group = None if task.group_role is None else columns[task.group_role]
        self._first_targets: dict[str, dict[str, Any]] = {}
        self._comparable: set[str] = set()
        self._rows: Counter[str] = Counter()
        self._classes: dict[str, Counter[str]] = {}
        self._seen: set[int] = set()
        self._again: dict[str, list[int]] = {}
        self._again_count: Counter[str] = Counter()
        self._bad: list[RowProblem] = []
        self._skipped: dict[str, int] = {}

    def row(self, split: str, number: int, row: Mapping[str, Any]) -> None:
        """Add a usable row, whose target was read; `number` is its place in its source, from 1."""
        self._rows[split] += 1
        if self._target is not None:
            self._classes.setdefault(split, Counter()).update(self._task.classes(row[self._target]))
        self._compare(split, row)
        inputs = self._digest(row)
        if split == "train":
            self._seen.add(inputs)
        elif inputs in self._seen:
            self._again_count[split] += 1
            shown = self._again.setdefault(split, [])
            if len(shown) < SHOWN:
                shown.append(number)

    def bad(self, problem: RowProblem) -> None:
        """Add a row that is left out."""
        if len(self._bad) < SHOWN:
            self._bad.append(problem)

    def skipped(self, split: str, count: int) -> None:
        """The number of rows of a split that are left out."""
        self._skipped[split] = count

    def classes(self, split: str) -> set[str]:
        """The classes of the usable rows of a split."""
        return set(self._classes.get(split, ()))

    def group_fault(self) -> tuple[str, str] | None:
        """The first evaluated split without a group whose targets differ, and what is missing; None where there is none."""
        split = next((name for name in self._rows if name != "train" and name not in self._comparable), None)
        if self._group is None or split is None:
            return None
        return split, f"no two {split} rows with the same '{self._group}' have different '{self._target}' values"

    def findings(self, *, is_complete: bool = True) -> Findings:
        """The findings as JSON: counts by split, and warnings."""
        classes = {split: dict(counts.most_common(SHOWN_CLASSES)) for split, counts in self._classes.items() if counts}
        drift = {split: round(self._drift(split), 4) for split in classes if split != "train" and "train" in classes}
        return {
            "complete": is_complete,
            "rows": dict(self._rows),
            "skipped": self._skipped,
            "bad_rows": [asdict(problem) for problem in self._bad],
            "classes": classes,
            "label_drift": drift,
            "duplicates": {
                split: {"count": count, "rows": self._again[split]} for split, count in self._again_count.items()
            },
            "warnings": [
                *self._drift_warnings(drift),
                *self._balance_warnings(),
                *self._duplicate_warnings(),
                *self._similarity_warnings(),
                *self._header_warnings(),
            ],
        }

    def _compare(self, split: str, row: Mapping[str, Any]) -> None:
        if split == "train" or self._group is None or self._target is None or split in self._comparable:
            return
        target = row[self._target]
        if self._first_targets.setdefault(split, {}).setdefault(str(row[self._group]), target) != target:
            self._comparable.add(split)

    def _digest(self, row: Mapping[str, Any]) -> int:
        cells = [cell.split() if isinstance(cell := row.get(name), str) else cell for name in self._inputs]
        text = json.dumps(cells, default=str, ensure_ascii=True)
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())

    def _drift(self, split: str) -> float:
        # The total variation distance: the share of rows that would have to change their class.
        train, other = self._classes["train"], self._classes[split]
        all_train, all_other = train.total(), other.total()
        return sum(abs(train[name] / all_train - other[name] / all_other) for name in train.keys() | other.keys()) / 2

    def _drift_warnings(self, drift: Mapping[str, float]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for split, distance in drift.items():
            train, other = self._classes["train"], self._classes[split]
            by_chance = math.sqrt((len(train) - 1) / (2 * math.pi * other.total()))
            if distance > max(DRIFT, 2 * by_chance):
                most = max(train, key=lambda name: abs(train[name] / train.total() - other[name] / other.total()))
                message = (
                    f"the class distribution of {split} differs from that of train (total variation distance "
                    f"{distance:.0%}); '{most}' is {train[most] / train.total():.0%} of train and "
                    f"{other[most] / other.total():.0%} of {split}"
                )
                found.append({"code": "label_drift", "split": split, "message": message})
        return found

    def _balance_warnings(self) -> list[dict[str, Any]]:
        counts = self._classes.get("train")
        if not counts:
            return []
        (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
        if many < IMBALANCE * few:
            return []
        message = (
            f"train has {many} rows of '{most}' and {few} of '{least}'; "
            'training.class_weights "balanced" gives each class the same weight, if the task supports it'
        )
        return [{"code": "class_imbalance", "split": "train", "message": message}]

    def _duplicate_warnings(self) -> list[dict[str, Any]]:
        return [
            {
                "code": "duplicates",
                "split": split,
                "message": f"{count} of {self._rows[split]} {split} rows also appear in train, the first is row {self._again[split][0]}; metrics may be optimistic",
            }
            for split, count in self._again_count.items()
        ]

    def _similarity_warnings(self) -> list[dict[str, Any]]:
        names = [name for name, _ in self._classes.get("train", Counter[str]()).most_common()]
        return [
            {
                "code": "similar_labels",
                "split": "train",
                "message": f"the classes {', '.join(map(repr, group))} have similar names; "
                "if they mean the same, correct the labels",
            }
            for group in similar_names(names)
        ]

    def _header_warnings(self) -> list[dict[str, Any]]:
        return [
            {"code": "header_missing", "split": "train", "message": message}
            for message in header_warnings(self._columns.values())
        ]
