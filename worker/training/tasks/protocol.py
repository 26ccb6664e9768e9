"""What a task is to the rest of training. Each task is one file of this package, and no task knows another.

    rows → encode → collate → step → loss                  training
                              step → answers → eval_prediction → metrics, describe, report    evaluation

What makes a row usable, and what its classes are, is decided by the task's spec in `app/specs/tasks/`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import datasets
import torch

from app.specs import JobSpec, Resolved
from worker.training.evaluation.metrics.table import Metrics
from worker.training.inputs.table import Row, Table

Features = dict[str, Any]
"""One encoded row. Names that begin with "_" are for the evaluation alone and never reach `collate`."""
PLACE = "_place"
"""Where a task makes more or fewer sequences than rows: the place (from 0) of the row a sequence comes from."""
REFERENCE = "reference"
"""For a task that needs the reference model: what that model says about each encoded row."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Encoded rows as tensors."""

    inputs: Tensors
    """Arguments of the model's `forward`."""
    targets: Tensors
    """What the loss and the predictions need besides the model's outputs."""
    num_items: int
    """How many items are learned, such as rows or tokens. The loss of an optimizer step is the mean over its items."""

    def to(self, device: Any, *, non_blocking: bool = False) -> "Batch":
        """The same batch on a device."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU copies quickly (https://pytorch.org/docs/stable/data.html#memory-pinning)."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def __len__(self) -> int:
        """How many tensors the model takes."""
        return len(self.inputs)

    def _moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        inputs = {name: move(tensor) for name, tensor in self.inputs.items()}
        targets = {name: move(tensor) for name, tensor in self.targets.items()}
        return Batch(inputs, targets, self.num_items)


class StepResult(NamedTuple):
    """What one forward pass gives."""

    loss_sum: torch.Tensor
    """The loss summed over the items of the batch."""
    num_items: int
    outputs: Any
    """The model's outputs."""


TrainingStep = Callable[[Any, Batch], StepResult]
"""(model, batch) → loss and outputs."""
Collate = Callable[[list[Features]], Batch]
"""Encoded rows to one batch.

A collation that draws random numbers has a method `set_epoch`. It draws them from the epoch and the row alone: batches
are made before the step that learns from them, so the random state in a checkpoint is already past those of the next step.
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
    """One forward pass of an evaluation, on the device: the encoded rows, the batch, and the model's outputs."""

    model: Any
    features: list[Features]
    batch: Batch
    outputs: Any


@dataclass(frozen=True)
class EvalPrediction:
    """The predictions of a model for a split and the references that metrics compare them with: one of each a row.

    The name is that of `transformers.EvalPrediction`.
    """

    predictions: Sequence[Any]
    references: Sequence[Any]


def set_epoch(collate: Collate, epoch: int) -> None:
    """Give a collation that draws random numbers the epoch (from 0) that begins, before its first batch."""
    begin = getattr(collate, "set_epoch", None)
    if begin is not None:
        begin(epoch)


class Task(Protocol):
    """Everything that differs between tasks: how rows are encoded, learned and evaluated.

    A task subclasses this protocol. What has a default here need not be written.
    """

    metrics: ClassVar[Metrics]
    """The metrics of the task's spec, by their names there."""
    pipeline: ClassVar[str]
    """The task of `transformers.pipeline`, for the model card."""
    model_class: ClassVar[Any]
    """The class of transformers that loads its models."""
    peft_type: ClassVar[str | None]
    """The name of peft's `TaskType`; None where peft has none."""
    trained_heads: ClassVar[tuple[str, ...]] = ()
    """Modules that LoRA trains and keeps whole even if they are pretrained."""
    needs_reference_model: ClassVar[bool] = False
    """Whether the loss compares the model with what it was before training. Then every attempt needs the base model."""

    def check(self, spec: JobSpec, tokenizer: Any, config: Any) -> None:
        """Raise a TrainingError where this model cannot do the task, such as a tokenizer without a chat template.

        Lasting settings of the tokenizer, such as its languages, are made here: `encode` is not called where the tokens
        come from the cache.
        """

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """Load the pretrained weights of `folder` with a head for the labels, seeded by the spec.

        Returns the model and the names of the randomly initialized parameters. `kind` is passed to `from_pretrained`.
        Raises ModelRefused or ModelConfigInvalid.
        """
        ...

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """Load a model that this task saved before."""
        ...

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """Tokens and targets of rows, by feature name. A row longer than `max_length` is truncated if the spec allows it.

        `truncated` (one bool a row) says which rows were; the caller removes it. Where there are not as many sequences
        as rows, `_place` counts within `rows`. Raises RowTooLong.
        """
        ...

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """How a list of encoded rows becomes tensors of one batch."""
        ...

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """The step that training and evaluation take. `train` is encoded; classes are weighted by it. Raises ClassUnknown."""
        ...

    def reference(self, model: Any, batch: Batch) -> list[Any]:
        """What the reference model says about each row of a batch. Only for tasks that need it."""
        raise TypeError(f"{type(self).__name__} needs no reference model")

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """What the model says of each encoded row of a pass, as little of it as `eval_prediction` needs."""
        ...

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """Predictions and references from the answers to all encoded rows of a split, in its order."""
        ...

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Predictions as people read them: one object a row."""
        ...

    def report(self, split: Split, evaluated: EvalPrediction) -> dict[str, dict[str, float]] | None:
        """A fuller account of an evaluation than its metrics, such as numbers for each class; None where there is none."""
        return None

    def chance(self, split: Split, evaluated: EvalPrediction) -> dict[str, float]:
        """Metrics of a model that ignores its inputs, such as the accuracy of always predicting the majority class."""
        return {}

    def finish(self, folder: Path, spec: JobSpec, resolved: Resolved) -> None:
        """Add files for libraries other than transformers to the published folder."""

    def use(self, spec: JobSpec) -> str:
        """Python that loads the model from the folder `FOLDER` and uses it, for the model card."""
        ...
