"""One label for each text or pair of texts; or several labels; or a number."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from app.specs.labels import LabelName, check_labels, class_name, label_name, number, ordered, too_many, unknown
from app.specs.tasks.base import Columns, Example, Fault, Limits, Role, Row, TaskSpec, text_faults

CLASS_METRICS = (
    "accuracy",
    "f1",
    "f1_micro",
    "f1_weighted",
    "precision",
    "precision_micro",
    "precision_weighted",
    "recall",
    "recall_micro",
    "recall_weighted",
)
"""Metrics over classes. Without a suffix the average is macro."""
NUMBER_METRICS = ("pearson", "spearman", "mse", "rmse", "mae", "r2")


class TextClassification(TaskSpec):
    """Assign one class to each text, or several classes, or a number."""

    known_roles: ClassVar[tuple[Role, ...]] = (
        Role("text", ("sentence", "review", "content", "body", "comment", "sentence1", "premise", "question1")),
        Role("text_pair", ("sentence2", "hypothesis", "question2"), is_required=False),
        Role(
            "label",
            ("labels", "stars", "class", "category", "target", "sentiment"),
            is_answer=True,
            is_target=True,
        ),
    )
    engines: ClassVar[tuple[str, ...]] = ("trainer", "pytorch", "tensorflow")
    example: ClassVar[Example] = {
        "name": "mood",
        "task": {"type": "text-classification"},
        "model": "google-bert/bert-base-cased",
        "data": {
            "train": {
                "rows": [
                    {"text": "A joy from start to end.", "label": "good"},
                    {"text": "Two hours of my life that I shall miss.", "label": "bad"},
                ]
            }
        },
    }

    type: Literal["text-classification"] = Field(description="The task type.")
    problem: Literal["single-label", "multi-label", "regression"] = Field(
        default="single-label",
        description="What to predict for a text: exactly one class (`single-label`), any number of classes "
        "(`multi-label`: the cell is a list), or a number (`regression`).",
    )
    labels: list[LabelName] | None = Field(
        default=None,
        min_length=2,
        max_length=1000,
        description="The class names in the order of their ids. Without it, they are learned from train: sorted "
        "as numbers if all labels are numbers, otherwise alphabetically. With it, an integer in a "
        "label cell that is not itself a name is an index into this list.",
    )
    separator: str | None = Field(
        default=None,
        min_length=1,
        max_length=10,
        description="With `multi-label`: the separator between classes if the cell is text, as in CSV files. "
        "Without it, such a cell must be a JSON list.",
    )

    @field_validator("labels")
    @classmethod
    def _labels_are_distinct(cls, labels: list[str] | None) -> list[str] | None:
        return check_labels(labels)

    @model_validator(mode="after")
    def _options_go_with_the_problem(self) -> Self:
        if self.problem == "regression" and self.labels is not None:
            raise ValueError("regression predicts numbers, so it has no 'labels'")
        if self.problem != "multi-label" and self.separator is not None:
            raise ValueError("'separator' requires problem 'multi-label'")
        return self

    @property
    def has_classes(self) -> bool:
        """Numbers are not classes."""
        return self.problem != "regression"

    @property
    def supported(self) -> Limits:
        """Class weights and label smoothing need exactly one class per text."""
        if self.problem == "single-label":
            return {}
        return {"training.class_weights": (None,), "training.label_smoothing": (0.0,)}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of classes, or those of numbers."""
        return NUMBER_METRICS if self.problem == "regression" else CLASS_METRICS

    @classmethod
    def all_metrics(cls) -> tuple[str, ...]:
        """Those of classes, then those of numbers."""
        return (*CLASS_METRICS, *NUMBER_METRICS)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Accuracy and F1 of one class, F1 of several, correlation and error of numbers."""
        return {
            "single-label": ("accuracy", "f1"),
            "multi-label": ("f1_micro", "f1", "accuracy"),
            "regression": ("pearson", "spearman", "rmse"),
        }[self.problem]

    @property
    def class_names(self) -> Sequence[str] | None:
        """The spec's own list."""
        return self.labels

    def read(self, cell: Any, names: Sequence[str] | None = None) -> Any:
        """A class name, a list of them, or a float; None for a cell without a value."""
        if self.problem == "regression":
            return number(cell)
        if self.problem == "single-label":
            return self._class(cell, names)
        cells = self._cells(cell)
        return cells if isinstance(cells, str) or cells is None else [self._class(part, names) for part in cells]

    def classes(self, cell: Any) -> Iterable[str]:
        """The one class, or each of them."""
        if self.problem == "regression":
            return ()
        return [cell] if self.problem == "single-label" else cell

    def learn(self, seen: Iterable[str]) -> list[str]:
        """Sorted as numbers if all are numbers, otherwise as text."""
        return ordered(seen)

    def classes_fault(self, seen: Collection[str]) -> str | None:
        """A single class, or too many classes, cannot be trained on."""
        if self.problem == "regression":
            return None
        if len(seen) < 2:  # noqa: PLR2004 - a single class leaves nothing to distinguish
            return f"the label column holds {len(seen)} class; a classifier needs at least 2"
        return too_many(seen)

    def stratum(self, cell: Any) -> str | None:
        """The class, if there is exactly one."""
        return str(cell) if self.problem == "single-label" else None

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows without text, or with a label that is not a class or not a number."""
        yield from text_faults(row, columns, "text", "text_pair")
        if message := self._label_fault(row.get(columns["label"]), known):
            yield "label", message

    def _class(self, cell: Any, names: Sequence[str] | None) -> str | None:
        if names and self.labels and not set(names) <= set(self.labels):
            # The spec renames a hub dataset's classes: its ids count into the spec's list.
            names = self.labels
        if names is not None and isinstance(cell, int):
            # A hub writes -1 where there is no label.
            return names[cell] if 0 <= cell < len(names) else None
        return class_name(cell, self.labels)

    def _cells(self, cell: Any) -> Any:
        # An empty cell of a CSV file is null.
        if cell is None and self.separator is not None:
            return []
        # A text that is not a list stays as it is, and `faults` refuses it with the reason.
        if not isinstance(cell, str):
            return cast("list[Any]", cell) if isinstance(cell, list) else None
        if self.separator is not None:
            return [part.strip() for part in cell.split(self.separator) if part.strip()]
        try:
            read = json.loads(cell)
        except ValueError:
            return cell
        return cast("list[Any]", read) if isinstance(read, list) else cell

    def _label_fault(self, cell: Any, known: Collection[str] | None) -> str | None:
        if self.problem == "regression":
            return None if number(cell) is not None else "not a number"
        if self.problem == "single-label":
            name = label_name(cell)
            return "no label" if name is None else unknown("label", name, known)
        if isinstance(cell, str):
            return "a list of labels is needed; for text, set task.separator to the separator between the labels"
        if not isinstance(cell, list):
            return "no labels; use an empty list for a text without labels"
        faults = ("no label" if name is None else unknown("label", name, known) for name in cast("list[Any]", cell))
        return next((fault for fault in faults if fault), None)


SPEC = TextClassification
