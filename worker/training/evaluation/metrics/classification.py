"""Accuracy, F1, precision and recall over class ids, or over sets of them, computed by scikit-learn.

The configuration of a metric (`config_name`) is how it averages over the classes. Sets of classes are rows of 0 and 1.
"""

from collections.abc import Sequence
from typing import Any, cast

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from worker.training.evaluation.metrics.table import Metrics

Ids = Sequence[int]
UNDEFINED = cast("Any", 0)
"""What a ratio over no rows counts as."""


class ClassMetric(evaluate.Metric):
    """A metric over the class ids of predictions and references; `compute` returns one number by its name."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        sets = datasets.Features({name: datasets.List(kind) for name, kind in ids.items()})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(
            description=about, citation="", inputs_description=about, features=cast("Any", [ids, sets])
        )


class Accuracy(ClassMetric):
    """The share of rows whose class is right, or whose classes are all right."""

    def _compute(self, *, predictions: Ids, references: Ids) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"accuracy": float(accuracy_score(np.asarray(references), np.asarray(predictions)))}


class F1(ClassMetric):
    """The harmonic mean of precision and recall."""

    def _compute(self, *, predictions: Ids, references: Ids) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"f1": _averaged(f1_score, self.config_name, predictions, references)}


class Precision(ClassMetric):
    """Of the rows put into a class, the share that belongs there."""

    def _compute(self, *, predictions: Ids, references: Ids) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"precision": _averaged(precision_score, self.config_name, predictions, references)}


class Recall(ClassMetric):
    """Of the rows of a class, the share that was put there."""

    def _compute(self, *, predictions: Ids, references: Ids) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"recall": _averaged(recall_score, self.config_name, predictions, references)}


CLASSES: Metrics = {
    "accuracy": (Accuracy, "default"),
    "f1": (F1, "macro"),
    "f1_micro": (F1, "micro"),
    "f1_weighted": (F1, "weighted"),
    "precision": (Precision, "macro"),
    "precision_micro": (Precision, "micro"),
    "precision_weighted": (Precision, "weighted"),
    "recall": (Recall, "macro"),
    "recall_micro": (Recall, "micro"),
    "recall_weighted": (Recall, "weighted"),
}
"""Without a suffix the average is macro."""


def _averaged(score: Any, average: str | None, predictions: Ids, references: Ids) -> float:
    return float(score(np.asarray(references), np.asarray(predictions), average=average, zero_division=UNDEFINED))
