"""Runs a PyTorch model over a split. Every engine uses it, during training and afterwards."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import datasets
import torch

from worker.training.errors import Stopped
from worker.training.methods import METHODS, load_published
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import REFERENCE, Pass, TrainingStep
from worker.training.tokens.tokenization import lengths

FEWEST_ROWS, FILLED_SHARE = 4, 0.75
"""On a CPU, a batch of at least so many rows takes no row that is shorter than this share of its longest."""


@dataclass(frozen=True)
class EvaluatedBatch:
    """One forward pass: the places of the encoded rows, the answers to them, and the sum of the losses of their items."""

    places: list[int]
    answers: list[Any]
    loss_sum: float
    num_items: int


def predict(plan: Plan, folder: Path, split: str) -> Answers:
    """Run a saved model over a split. Raises Stopped or ModelRefused."""
    model = load_published(plan, folder)
    return gather(forward(model, plan, split, training_step(plan)), len(plan.encoded[split]))


def with_references(plan: Plan) -> Plan:
    """The plan with a column `reference` in each encoded split: what the model before training answers. Raises Stopped.

    It is computed once an attempt, for tasks that need the reference model.
    """
    model = METHODS[plan.spec.training.method.type].base(plan).to(plan.resolved.device).eval()
    return replace(plan, encoded={split: _with_reference(plan, model, rows) for split, rows in plan.encoded.items()})


def training_step(plan: Plan) -> TrainingStep:
    """The step of the plan's task, its classes weighted by train."""
    return plan.task.training_step(plan.spec, plan.resolved.labels, plan.encoded["train"])


def forward(model: Any, plan: Plan, split: str, step: TrainingStep) -> Iterator[EvaluatedBatch]:
    """Run a model over a split, batch by batch. Raises Stopped.

    Rows of similar length share a batch, so that there is little padding. No random numbers are drawn here, so the number
    of evaluations does not change the training.
    """
    encoded, size, device = plan.encoded[split], plan.resolved.eval_batch_size, plan.resolved.device
    task, spec = plan.task, plan.spec
    collate = task.collate(plan.tokenizer, spec, plan.resolved.max_length)
    model.eval()
    for places in batches_by_length(lengths(encoded), size, keeps_size=_keeps_size(plan)):
        if plan.stop.is_set():
            raise Stopped
        plan.report.alive()
        features = [cast("dict[str, Any]", encoded[place]) for place in places]
        batch = collate(list(map(_inputs, features))).to(device)
        with torch.no_grad(), autocast(plan):
            found = step(model, batch)
            answers = task.answers(Pass(model, features, batch, found.outputs), spec, plan.tokenizer)
        yield EvaluatedBatch(places, answers, float(found.loss_sum), found.num_items)


def batches_by_length(tokens: list[int], size: int, *, keeps_size: bool) -> list[list[int]]:
    """Places of rows (so many tokens each) in batches of up to `size`, the longest first.

    A batch ends early where the rest would be mostly padding, unless it is to keep its size.
    """
    order = sorted(range(len(tokens)), key=lambda place: -tokens[place])
    batches: list[list[int]] = []
    for place in order:
        batch = batches[-1] if batches else []
        is_full = not batch or len(batch) == size
        is_padding = len(batch) >= FEWEST_ROWS and tokens[place] < FILLED_SHARE * tokens[batch[0]]
        if is_full or (is_padding and not keeps_size):
            batches.append([])
        batches[-1].append(place)
    return batches


def _keeps_size(plan: Plan) -> bool:
    # A GPU is quicker with large batches, and where the other rows of a batch are negative examples, the loss depends on it.
    return plan.resolved.device != "cpu" or plan.spec.task.has_negatives_in_batch


def gather(batches: Iterable[EvaluatedBatch], rows: int) -> Answers:
    """Put the batches of a split of so many encoded rows back into its order."""
    answers: list[Any] = [None] * rows
    loss_sum, num_items = 0.0, 0
    for batch in batches:
        loss_sum, num_items = loss_sum + batch.loss_sum, num_items + batch.num_items
        for place, answer in zip(batch.places, batch.answers, strict=True):
            answers[place] = answer
    return Answers(answers, loss_sum / max(1, num_items))


def autocast(plan: Plan) -> torch.autocast:
    """The precision of the plan as a context."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.resolved.precision]
    return torch.autocast(plan.resolved.device, dtype=kind, enabled=plan.resolved.precision != "fp32")


def _inputs(features: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in features.items() if not name.startswith("_")}


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
