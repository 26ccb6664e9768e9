"""Predictions become numbers."""

import math

from worker.training.errors import LossNotFinite
from worker.training.metrics import compute
from worker.training.plan import Plan, Predictions


def judge(plan: Plan, predictions: Predictions, prefix: str) -> dict[str, float]:
    """The metrics of the spec and the loss, each named `PREFIX_name`. Raises LossNotFinite."""
    if not math.isfinite(predictions.loss):
        raise LossNotFinite(f"the {prefix} loss is {predictions.loss}")
    scratch = plan.scratch / "metrics"
    values = compute(plan.resolved.metrics, plan.task.predict(predictions.logits), predictions.targets, scratch)
    return {f"{prefix}_{name}": value for name, value in values.items()} | {f"{prefix}_loss": predictions.loss}
