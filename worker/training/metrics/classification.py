"""Accuracy, F1, precision and recall over class ids, computed by scikit-learn.

The configuration of a metric (`config_name`) is how it averages over the classes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import datasets
import evaluate
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

Ids = Sequence[int]
UNDEFINED = cast("Any", 0)
"""What a ratio over no rows counts as."""


class ClassMetric(evaluate.Metric):
    """A metric over the class ids of predictions and references; `compute` returns one number by its name."""

    greater_is_better: ClassVar[bool] = True

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(description=about, citation="", inputs_description=about, features=ids)


class Accuracy(ClassMetric):
    """The share of rows whose class is right."""

    def _compute(self, *, predictions: Ids, references: Ids) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(ClassMetric):
    """The harmonic mean of precision and recall."""

    def _compute(self, *, predictions: Ids, references: Ids) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"f1": float(f1_score(references, predictions, average=self.config_name, zero_division=UNDEFINED))}


class Precision(ClassMetric):
    """Of the rows put into a class, the share that belongs there."""

    def _compute(self, *, predictions: Ids, references: Ids) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {
            "precision": float(
                precision_score(references, predictions, average=self.config_name, zero_division=UNDEFINED)
            )
        }


class Recall(ClassMetric):
    """Of the rows of a class, the share that was put there."""

    def _compute(self, *, predictions: Ids, references: Ids) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {
            "recall": float(recall_score(references, predictions, average=self.config_name, zero_division=UNDEFINED))
        }
