"""What the model said before training, which preference tuning holds it to: computed once, from the base model."""

from dataclasses import replace
from typing import Any, cast

import datasets
import torch

from worker.training.errors import Stopped
from worker.training.evaluation.prediction import autocast
from worker.training.methods import METHODS
from worker.training.planning.plan import Plan
from worker.training.tasks.preference import log_probabilities
from worker.training.tasks.protocol import REFERENCE


def with_references(plan: Plan) -> Plan:
    """The plan with a column `reference` in each encoded split: the log probabilities of both answers. Raises Stopped."""
    model = METHODS[plan.spec.training.method.type].base(plan).to(plan.resolved.device).eval()
    return replace(plan, encoded={split: _told(plan, model, rows) for split, rows in plan.encoded.items()})


def _told(plan: Plan, model: Any, rows: datasets.Dataset) -> datasets.Dataset:
    collate = plan.task.collate(plan.tokenizer, plan.spec, plan.resolved.max_length)
    found: list[list[float]] = []
    for start in range(0, len(rows), plan.resolved.eval_batch_size):
        if plan.stop.is_set():
            raise Stopped
        plan.report.alive()
        places = range(start, min(start + plan.resolved.eval_batch_size, len(rows)))
        batch = dict(collate([cast("dict[str, Any]", rows[place]) for place in places]))
        batch = {name: tensor.to(plan.resolved.device) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        with torch.no_grad(), autocast(plan):
            said, _ = log_probabilities(model(**batch)["logits"], labels)
        found += said.T.tolist()
    return rows.add_column(REFERENCE, found)
