"""Predictions become numbers."""

import math

from worker.training.errors import LossNotFinite
from worker.training.metrics import Scores
from worker.training.plan import Plan, Predictions


def judge(plan: Plan, predictions: Predictions, prefix: str) -> dict[str, float]:
    """The metrics of the spec and the loss, each named `PREFIX_name`. Raises LossNotFinite."""
    scores = open_scores(plan)
    scores.add_batch(plan.task.predict(predictions.logits), predictions.targets)
    return named(scores.compute(), predictions.loss, prefix)


def open_scores(plan: Plan) -> Scores:
    """The metrics of the plan, empty."""
    return Scores(plan.resolved.metrics, plan.scratch / "metrics")


def named(values: dict[str, float], loss: float, prefix: str) -> dict[str, float]:
    """Metrics and mean loss, each named `PREFIX_name`. Raises LossNotFinite."""
    if not math.isfinite(loss):
        raise LossNotFinite(f"the {prefix} loss is {loss}")
    return {f"{prefix}_{name}": value for name, value in values.items()} | {f"{prefix}_loss": loss}
