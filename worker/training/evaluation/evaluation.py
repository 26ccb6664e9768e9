"""Answers become numbers."""

import math

from worker.training.errors import LossNotFinite
from worker.training.evaluation.metrics import compute
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import Told


def judge(plan: Plan, split: str, answers: Answers) -> dict[str, float]:
    """The metrics of the spec and the loss over a split, each named `SPLIT_name`. Raises LossNotFinite."""
    return judge_told(plan, split, plan.task.tell(plan.split(split), answers.each), answers.loss)


def judge_told(plan: Plan, split: str, told: Told, loss: float) -> dict[str, float]:
    """The same of answers that are read already. Raises LossNotFinite."""
    if not math.isfinite(loss):
        raise LossNotFinite(f"the {split} loss is {loss}")
    found = compute(
        plan.task.metrics, plan.resolved.metrics, told.predictions, told.references, plan.scratch / "metrics"
    )
    return {f"{split}_{name}": value for name, value in found.items()} | {f"{split}_loss": loss}
