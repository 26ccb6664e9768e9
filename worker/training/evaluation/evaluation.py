"""Evaluates the answers of a model to a split."""

import math
from dataclasses import dataclass

from worker.training.errors import LossNotFinite
from worker.training.evaluation.metrics import compute
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import EvalPrediction, Split


@dataclass(frozen=True)
class SplitEvaluation:
    """The evaluation of one split."""

    split: Split
    answers: Answers
    evaluated: EvalPrediction
    metrics: dict[str, float | None]
    """The metrics of the spec and the loss, each named `SPLIT_name`. None where a metric is undefined for these rows."""


def evaluate(plan: Plan, name: str, answers: Answers) -> SplitEvaluation:
    """Compute the metrics of a split from the answers to it. Raises LossNotFinite."""
    if not math.isfinite(answers.loss):
        raise LossNotFinite(f"the {name} loss is {answers.loss}")
    split = split_of(plan, name)
    evaluated = plan.task.eval_prediction(split, answers.each)
    found = compute(
        plan.task.metrics,
        plan.resolved.metrics,
        evaluated.predictions,
        evaluated.references,
        plan.scratch / "metrics",
    )
    metrics = {f"{name}_{metric}": value for metric, value in found.items()}
    for metric, value in metrics.items():
        if value is None:
            plan.report.note_once(f"{metric} is undefined for these {len(answers.each)} rows; it is reported as null")
    metrics[f"{name}_loss"] = answers.loss
    return SplitEvaluation(split, answers, evaluated, metrics)


def split_of(plan: Plan, name: str) -> Split:
    """The rows of a split as the task reads them."""
    return Split(plan.spec, plan.resolved.labels, plan.tokenizer, plan.tables[name], plan.encoded[name])
