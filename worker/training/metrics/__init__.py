"""The metrics a job can ask for: subclasses of `evaluate.Metric`, made directly, never fetched."""

from collections.abc import Sequence
from pathlib import Path

from worker.training.metrics.classification import F1, Accuracy, ClassMetric, Precision, Recall

METRICS: dict[str, tuple[type[ClassMetric], str]] = {
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
"""Name in the spec to the metric and its configuration."""


class Scores:
    """The metrics of a job over one split, gathered batch by batch. `scratch` is evaluate's own folder."""

    def __init__(self, names: Sequence[str], scratch: Path) -> None:
        self._metrics = {name: _metric(name, scratch) for name in names}

    def add_batch(self, predictions: Sequence[int], references: Sequence[int]) -> None:
        """Take predicted class ids and true ones."""
        for metric in self._metrics.values():
            metric.add_batch(predictions=predictions, references=references)

    def compute(self) -> dict[str, float]:
        """Metric name to value over all batches."""
        # Metrics run in one process, so there is always an answer, and it has one number.
        return {name: float(next(iter((metric.compute() or {}).values()))) for name, metric in self._metrics.items()}


def greater_is_better(name: str) -> bool:
    """Whether more of a metric (or of "loss") is better."""
    return name != "loss" and METRICS[name][0].greater_is_better


def _metric(name: str, scratch: Path) -> ClassMetric:
    kind, config = METRICS[name]
    return kind(config_name=config, keep_in_memory=True, cache_dir=str(scratch))
