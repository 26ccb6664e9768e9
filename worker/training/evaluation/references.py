"""What the reference model says about the rows: computed once an attempt, from the base model, for tasks that need it."""

from dataclasses import replace
from typing import Any, cast

import datasets
import torch

from worker.training.errors import Stopped
from worker.training.evaluation.prediction import autocast
from worker.training.methods import METHODS
from worker.training.planning.plan import Plan
from worker.training.tasks.protocol import REFERENCE


def with_references(plan: Plan) -> Plan:
    """The plan with a column `reference` in each encoded split. Raises Stopped."""
    model = METHODS[plan.spec.training.method.type].base(plan).to(plan.resolved.device).eval()
    return replace(plan, encoded={split: _with_reference(plan, model, rows) for split, rows in plan.encoded.items()})


def _with_reference(plan: Plan, model: Any, rows: datasets.Dataset) -> datasets.Dataset:
    collate = plan.task.collate(plan.tokenizer, plan.spec, plan.resolved.max_length)
    found: list[Any] = []
    for start in range(0, len(rows), plan.resolved.eval_batch_size):
        if plan.stop.is_set():
            raise Stopped
        plan.report.alive()
        places = range(start, min(start + plan.resolved.eval_batch_size, len(rows)))
        batch = collate([cast("dict[str, Any]", rows[place]) for place in places]).to(plan.resolved.device)
        with torch.no_grad(), autocast(plan):
            found += plan.task.reference(model, batch)
    return rows.add_column(REFERENCE, found)
