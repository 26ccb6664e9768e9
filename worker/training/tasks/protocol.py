"""What a task is to the rest of training. One file in this package a task; none knows another.

    rows → encode → collate → forward → loss                  training
                              forward → answers → told → score, describe, report    evaluation

What makes a row usable, and what its classes are, is said by the task's spec in `app/specs/tasks/`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import datasets
import torch

from app.specs import JobSpec
from worker.training.evaluation.metrics.table import Metrics
from worker.training.inputs.table import Row, Table

Features = dict[str, Any]
"""One encoded row. Names that begin with "_" are for the evaluation alone and never reach `collate`."""
PLACE = "_place"
"""Where a task makes more or fewer sequences than rows: the place (from 0) of the row a sequence comes from."""
REFERENCE = "reference"
"""Where a task holds the model to what it said before training: that, of each encoded row."""

Batch = Mapping[str, torch.Tensor]
Collate = Callable[[list[Features]], Batch]
"""Encoded rows to tensors of one batch. What is to be learned is under `labels`, whatever its shape.

One that draws random numbers has a method `set_epoch`, and draws them from the epoch and the row alone: batches are made
before the step that learns from them, so the random state in a checkpoint is already past those of the next step.
"""
Loss = Callable[[Any, torch.Tensor, Any], torch.Tensor]
"""(model outputs, labels, weight of the optimiser step) → the summed loss over that weight; without one, the mean.

The weight of labels is `Task.weight`: how many things are learned, such as rows or tokens.
"""


@dataclass(frozen=True)
class Split:
    """The rows of an evaluated split, raw and encoded, and what they are read with."""

    spec: JobSpec
    labels: list[str]
    tokenizer: Any
    rows: Table
    encoded: datasets.Dataset


@dataclass(frozen=True)
class Pass:
    """One forward pass of an evaluation, on the device: the encoded rows, what went in, and what came out."""

    model: Any
    features: list[Features]
    batch: Batch
    labels: torch.Tensor
    outputs: Any


@dataclass(frozen=True)
class Told:
    """What the model says of a split, as the metrics take it: one prediction and one reference a row."""

    predictions: Sequence[Any]
    references: Sequence[Any]


def set_epoch(collate: Collate, epoch: int) -> None:
    """Tell a collation that draws random numbers which epoch (from 0) begins, before its first batch."""
    begin = getattr(collate, "set_epoch", None)
    if begin is not None:
        begin(epoch)


class Task(Protocol):
    """Everything that differs between kinds of jobs: how rows are encoded, learned from and judged."""

    metrics: ClassVar[Metrics]
    """The metrics of the task's spec, by their names there."""
    pipeline: ClassVar[str]
    """The task of `transformers.pipeline`, for the model card."""

    def check(self, spec: JobSpec, tokenizer: Any, config: Any) -> None:
        """Raise a TrainingError where this model cannot do the task, such as a tokenizer without a chat template.

        What the tokenizer must be told for good, such as its languages, it is told here: `encode` is left out where the
        tokens are known.
        """
        ...

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """Load the pretrained weights of `folder` with a head for the labels, seeded by the spec.

        Returns the model and the names of the parameters that were newly made. `kind` is passed to `from_pretrained`.
        Raises ModelRefused or ModelConfigInvalid.
        """
        ...

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """Load a model that this task saved before."""
        ...

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """Tokens and targets of rows, by feature name. A row longer than `max_length` is cut if the spec allows it.

        `cut` (bool, one a row) tells which rows were; the caller takes it away. Where there are not as many sequences
        as rows, `_place` counts within `rows`. Raises RowTooLong.
        """
        ...

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """How a list of encoded rows becomes tensors of one batch."""
        ...

    def loss(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> Loss:
        """The training loss. `train` is encoded, to weigh classes by. Raises ClassUnknown."""
        ...

    def weight(self, labels: torch.Tensor) -> int:
        """How many things the labels of a batch teach, over which the loss of a step is averaged."""
        ...

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """What the model says of each encoded row of a pass, as little of it as `tell` needs."""
        ...

    def tell(self, split: Split, answers: list[Any]) -> Told:
        """Predictions and references from the answers to all encoded rows of a split, in its order."""
        ...

    def describe(self, split: Split, answers: list[Any], told: Told) -> Iterator[dict[str, Any]]:
        """Predictions as people read them: one object a row."""
        ...

    def report(self, split: Split, told: Told) -> dict[str, dict[str, float]] | None:
        """A fuller account of an evaluation than its metrics, such as numbers for each class."""
        ...

    def use(self, spec: JobSpec) -> str:
        """Python that loads the model from the folder `FOLDER` and uses it, for the model card."""
        ...
