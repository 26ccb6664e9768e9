"""What a PyTorch model says about a split. Every engine on PyTorch looks through here, in training and afterwards."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from worker.training.errors import Stopped
from worker.training.plan import Plan, Predictions
from worker.training.tasks.protocol import Loss
from worker.training.tokenization import lengths


@dataclass(frozen=True)
class JudgedBatch:
    """One forward pass: which rows, their logits (rows by classes, float32), their targets, and the sum of their losses."""

    places: list[int]
    logits: np.ndarray[Any, Any]
    targets: list[int]
    loss: float


def predict(plan: Plan, folder: Path, split: str) -> Predictions:
    """Run a saved model over a split. Raises Stopped or ModelRefused."""
    model = plan.task.load_model(folder, plan.spec).to(plan.resolved.device)
    return gather(forward(model, plan, split, training_loss(plan)), len(plan.encoded[split]))


def training_loss(plan: Plan) -> Loss:
    """The loss of the spec, with its classes weighed by the targets of train."""
    targets = cast("Any", plan.encoded["train"].data).column("labels").to_pylist()
    return plan.task.loss(plan.spec, plan.resolved.labels, targets)


def forward(model: Any, plan: Plan, split: str, loss: Loss) -> Iterator[JudgedBatch]:
    """Run a model over a split, batch by batch. Raises Stopped.

    Rows of like length share a batch, so that little is padded. No random numbers are drawn in here: how often a run is
    evaluated changes nothing about its training.
    """
    encoded, size, device = plan.encoded[split], plan.resolved.eval_batch_size, plan.resolved.device
    collate = plan.task.collate(plan.tokenizer, plan.spec, plan.resolved.max_length)
    tokens = lengths(encoded)
    order = sorted(range(len(encoded)), key=lambda place: -tokens[place])
    model.eval()
    for start in range(0, len(order), size):
        if plan.stop.is_set():
            raise Stopped
        plan.report.alive()
        places = order[start : start + size]
        batch = {name: tensor.to(device) for name, tensor in collate([encoded[place] for place in places]).items()}
        wanted = batch.pop("labels")
        with torch.no_grad(), autocast(plan):
            outputs = model(**batch)
        yield JudgedBatch(
            places, outputs["logits"].float().cpu().numpy(), wanted.tolist(), float(loss(outputs, wanted, 1))
        )


def gather(batches: Iterable[JudgedBatch], rows: int) -> Predictions:
    """Put the batches of a split of so many rows back into its order."""
    logits: list[np.ndarray[Any, Any] | None] = [None] * rows
    targets, total = [0] * rows, 0.0
    for batch in batches:
        total += batch.loss
        for place, scores, target in zip(batch.places, batch.logits, batch.targets, strict=True):
            logits[place], targets[place] = scores, target
    return Predictions(np.stack(cast("Any", logits)), targets, total / rows)


def autocast(plan: Plan) -> torch.autocast:
    """The precision of the plan as a context."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.resolved.precision]
    return torch.autocast(plan.resolved.device, dtype=kind, enabled=plan.resolved.precision != "fp32")
