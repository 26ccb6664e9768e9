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
from worker.training.tasks.protocol import Loss, Pass
from worker.training.tokens.tokenization import lengths


@dataclass(frozen=True)
class JudgedBatch:
    """One forward pass: which encoded rows, the answers to them, the sum of their losses, and over what weight."""

    places: list[int]
    answers: list[Any]
    loss: float
    weight: int


def predict(plan: Plan, folder: Path, split: str) -> Answers:
    """Run a saved model over a split. Raises Stopped or ModelRefused."""
    model = load_published(plan, folder)
    return gather(forward(model, plan, split, training_loss(plan)), len(plan.encoded[split]))


def training_loss(plan: Plan) -> Loss:
    """The loss of the spec, as the rows of train would have it."""
    return plan.task.loss(plan.spec, plan.resolved.labels, plan.encoded["train"])


def learned(plan: Plan) -> datasets.Dataset:
    """The encoded rows of train, without what only an evaluation would need; of a stream, the first ones."""
    train = plan.encoded["train"]
    return train.remove_columns([name for name in train.column_names if name.startswith("_")])


def feed(plan: Plan) -> datasets.Dataset | Stream:
    """What an engine takes its batches from."""
    return learned(plan) if plan.stream is None else plan.stream


def forward(model: Any, plan: Plan, split: str, loss: Loss) -> Iterator[JudgedBatch]:
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
        batch = {name: tensor.to(device) for name, tensor in collate(list(map(_inputs, features))).items()}
        labels = batch.pop("labels")
        with torch.no_grad(), autocast(plan):
            outputs = model(**batch)
            answers = task.answers(Pass(model, features, batch, labels, outputs), spec, plan.tokenizer)
        yield JudgedBatch(places, answers, float(loss(outputs, labels, 1)), task.weight(labels))


def gather(batches: Iterable[JudgedBatch], rows: int) -> Answers:
    """Put the batches of a split of so many encoded rows back into its order."""
    answers: list[Any] = [None] * rows
    total, weight = 0.0, 0
    for batch in batches:
        total, weight = total + batch.loss, weight + batch.weight
        for place, answer in zip(batch.places, batch.answers, strict=True):
            answers[place] = answer
    return Answers(answers, total / max(1, weight))


def autocast(plan: Plan) -> torch.autocast:
    """The precision of the plan as a context."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.resolved.precision]
    return torch.autocast(plan.resolved.device, dtype=kind, enabled=plan.resolved.precision != "fp32")


def _inputs(features: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in features.items() if not name.startswith("_")}
