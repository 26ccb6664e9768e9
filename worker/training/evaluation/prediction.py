"""What a PyTorch model says of a split. Every engine on PyTorch looks through here, in training and afterwards."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import datasets
import torch

from worker.training.errors import Stopped
from worker.training.inputs.stream import Stream
from worker.training.methods import load_published
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import Pass, TrainingStep
from worker.training.tokens.tokenization import lengths


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


def training_step(plan: Plan) -> TrainingStep:
    """The step of the plan's task, its classes weighted by train."""
    return plan.task.training_step(plan.spec, plan.resolved.labels, plan.encoded["train"])


def learned(plan: Plan) -> datasets.Dataset:
    """The encoded rows of train, without what only an evaluation would need; of a stream, the first ones."""
    train = plan.encoded["train"]
    return train.remove_columns([name for name in train.column_names if name.startswith("_")])


def feed(plan: Plan) -> datasets.Dataset | Stream:
    """What an engine takes its batches from."""
    return learned(plan) if plan.stream is None else plan.stream


def forward(model: Any, plan: Plan, split: str, step: TrainingStep) -> Iterator[EvaluatedBatch]:
    """Run a model over a split, batch by batch. Raises Stopped.

    Rows of like length share a batch, so that little is padded. No random numbers are drawn in here: how often a run is
    evaluated changes nothing about its training.
    """
    encoded, size, device = plan.encoded[split], plan.resolved.eval_batch_size, plan.resolved.device
    task, spec = plan.task, plan.spec
    collate = task.collate(plan.tokenizer, spec, plan.resolved.max_length)
    tokens = lengths(encoded)
    order = sorted(range(len(encoded)), key=lambda place: -tokens[place])
    model.eval()
    for start in range(0, len(order), size):
        if plan.stop.is_set():
            raise Stopped
        plan.report.alive()
        places = order[start : start + size]
        features = [cast("dict[str, Any]", encoded[place]) for place in places]
        batch = collate(list(map(_inputs, features))).to(device)
        with torch.no_grad(), autocast(plan):
            found = step(model, batch)
            answers = task.answers(Pass(model, features, batch, found.outputs), spec, plan.tokenizer)
        yield EvaluatedBatch(places, answers, float(found.loss_sum), found.num_items)


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
