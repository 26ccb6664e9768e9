"""What a task is to the rest of training. One file in this package a task; none knows another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from app.specs import JobSpec
from app.specs.rows import RowProblem
from worker.training.table import Row, Table

Features = dict[str, Any]
Collate = Callable[[list[Features]], Mapping[str, torch.Tensor]]
Loss = Callable[[Any, torch.Tensor, Any], torch.Tensor]
"""(model outputs, labels, rows in the optimiser step) → the summed loss over those rows; without a count, the mean."""


class Task(Protocol):
    """Everything that differs between kinds of jobs: how rows are read, encoded, learned from and judged."""

    def read_targets(self, spec: JobSpec, table: Table) -> Table:
        """Write the target cells as the task knows them, such as class names instead of a hub's ids."""
        ...

    def learn_labels(self, spec: JobSpec, train: Table) -> list[str]:
        """The class names in the order of their ids, from the spec or else from train; empty without classes."""
        ...

    def strata(self, spec: JobSpec, table: Table) -> list[str] | None:
        """What a held-out share should be balanced by, one text a row, or None."""
        ...

    def problems(self, split: str, rows: list[Row], spec: JobSpec, labels: list[str]) -> Iterator[RowProblem]:
        """Say what is wrong with these rows; `row` counts from 1 within them."""
        ...

    def check_targets(self, spec: JobSpec, labels: list[str], train: Table) -> None:
        """Raise a TrainingError where train as a whole cannot be learned from."""
        ...

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str]) -> tuple[Any, tuple[str, ...]]:
        """Load the pretrained weights of `folder` with a head for the labels, seeded by the spec.

        Returns the model and the names of the parameters that were newly made.
        Raises ModelRefused or ModelConfigInvalid.
        """
        ...

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """Load a model that this task saved before."""
        ...

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int
    ) -> dict[str, list[Any]]:
        """Tokens and targets of rows, by feature name. A row longer than `max_length` is cut if the spec allows it.

        `cut` (bool) tells which rows were; the caller takes it away. Raises RowTooLong.
        """
        ...

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """How a list of encoded rows becomes tensors of one batch."""
        ...

    def loss(self, spec: JobSpec, labels: list[str], targets: Sequence[int]) -> Loss:
        """The training loss. `targets` are those of train, to weigh classes by. Raises ClassUnknown."""
        ...

    def predict(self, logits: np.ndarray[Any, Any]) -> list[int]:
        """Predictions from logits (rows by classes), as the metrics take them."""
        ...

    def describe(self, rows: list[Row], spec: JobSpec, labels: list[str], logits: Any) -> Iterator[dict[str, Any]]:
        """Predictions as people read them: one object a row."""
        ...

    def report(self, labels: list[str], predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        """A fuller account of an evaluation than its metrics, such as numbers for each class."""
        ...
