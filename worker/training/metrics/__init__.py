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


def compute(
    names: Sequence[str], predictions: Sequence[int], references: Sequence[int], scratch: Path
) -> dict[str, float]:
    """Judge predicted class ids against true ones. Returns metric name to value; `scratch` is evaluate's own folder."""
    return {name: _one(name, predictions, references, scratch) for name in names}


def greater_is_better(name: str) -> bool:
    """Whether more of a metric (or of "loss") is better."""
    return name != "loss" and METRICS[name][0].greater_is_better


def _one(name: str, predictions: Sequence[int], references: Sequence[int], scratch: Path) -> float:
    kind, config = METRICS[name]
    metric = kind(config_name=config, keep_in_memory=True, cache_dir=str(scratch))
    found = metric.compute(predictions=predictions, references=references)
    # The metric runs in one process, so there is always an answer, and it has one number.
    return float(next(iter((found or {}).values())))
