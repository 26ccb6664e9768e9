"""The metrics of one task by name, and how they are computed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import evaluate

Metrics = Mapping[str, tuple[type[evaluate.Metric], str]]
"""Name in the spec to the metric and its configuration."""

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mse", "rmse", "mae"})


def compute(
    metrics: Metrics, names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any], scratch: Path
) -> dict[str, float | None]:
    """Metric name to value, None where it is undefined for these rows, such as `r2` of one row.

    Predictions and references are as the task's metrics take them. `scratch` is a folder for `evaluate`.
    """
    return {name: _value(*metrics[name], predictions, references, scratch) for name in names}


def greater_is_better(name: str) -> bool:
    """Whether more of a metric (or of "loss") is better."""
    return name not in LOWER_IS_BETTER


def _value(
    kind: type[evaluate.Metric], config: str, predictions: Sequence[Any], references: Sequence[Any], scratch: Path
) -> float | None:
    metric = kind(config_name=config, keep_in_memory=True, cache_dir=str(scratch))
    # Metrics run in one process, so there is always an answer, and it has one number.
    found = metric.compute(predictions=predictions, references=references) or {}
    value = float(next(iter(found.values())))
    return value if math.isfinite(value) else None
