"""What is settled before the first step, and what a model says of a split. Engines and their surroundings share it."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from app.specs import JobSpec, Resolved
from worker.training.inputs.stream import Stream
from worker.training.inputs.table import Table
from worker.training.planning.resolve import steps_per_epoch
from worker.training.reports import Reporter
from worker.training.tasks.protocol import Split, Task


@dataclass(frozen=True)
class Plan:
    """All that an engine needs."""

    spec: JobSpec
    resolved: Resolved
    task: Task
    tokenizer: Any
    initial: Path
    """The model folder that every engine starts from, new head included; when resuming, the checkpoint."""
    head: tuple[str, ...]
    """Names of the newly made parameters."""
    tables: dict[str, Table]
    """Split to the rows used."""
    encoded: dict[str, datasets.Dataset]
    """Split to its tokens and targets."""
    stream: Stream | None
    """All of train, where it is streamed; its table and tokens are then of its first rows."""
    base: Path
    """The pretrained model, which methods that tune only parts of it load again."""
    out_dir: Path
    resume_from: Path | None
    report: Reporter
    stop: threading.Event
    threads: int | None = None
    """CPU threads, for engines that compute in a process of their own."""
    tensorflow_python: Path | None = None
    """The interpreter of the environment that has TensorFlow."""

    def split(self, name: str) -> Split:
        """What the task reads answers with."""
        return Split(self.spec, self.resolved.labels, self.tokenizer, self.tables[name], self.encoded[name])

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass over train; nobody knows where a stream ends, so its epoch is the whole run."""
        if self.stream is not None:
            return self.resolved.total_steps
        rows = len(self.encoded["train"])
        return steps_per_epoch(rows, self.resolved.batch_size, self.resolved.gradient_accumulation)

    @property
    def scratch(self) -> Path:
        """Where an engine may write what nobody keeps."""
        return self.out_dir / "staging"


@dataclass(frozen=True)
class Answers:
    """What a model says of one split: the task's answer to each encoded row, in its order, and the mean loss."""

    each: list[Any]
    loss: float
