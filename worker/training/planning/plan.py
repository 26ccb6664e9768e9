"""What is decided before the first step, and what a model answers for a split. Engines and their surroundings share it."""

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from app.specs import JobSpec, Resolved
from worker.training.inputs.table import Table
from worker.training.planning.initial import InitialModel
from worker.training.planning.resolve import steps_per_epoch, tiers_of
from worker.training.planning.token_batches import Tier
from worker.training.reports import Reporter
from worker.training.tasks.protocol import Task
from worker.training.tokens.tokenization import Encoder, lengths


@dataclass(frozen=True)
class Plan:
    """All that an engine needs."""

    spec: JobSpec
    resolved: Resolved
    task: Task
    tokenizer: Any
    initial: InitialModel
    """What every engine starts from, new head included; when resuming, the checkpoint."""
    tables: dict[str, Table]
    """Split to the rows used. Of a streamed train split, only the first rows."""
    encoded: dict[str, datasets.Dataset]
    """Split to its tokens and targets."""
    base: Path
    """The pretrained model, which methods that tune only parts of it load again."""
    out_dir: Path
    resume_from: Path | None
    report: Reporter
    stop: threading.Event
    job_id: str | None = None
    """None for a run by hand."""
    is_first_attempt: bool = False
    """Whether no earlier attempt has measured the job."""
    threads: int | None = None
    """CPU threads, for engines that compute in a process of their own."""
    tensorflow_python: Path | None = None
    """The interpreter of the environment that has TensorFlow."""
    compile_cache: Path | None = None
    """Where compiled layers are kept for later jobs of this machine."""

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the randomly initialized parameters."""
        return self.initial.head

    @property
    def encoder(self) -> Encoder:
        """How rows become tokens."""
        return Encoder(self.task, self.tokenizer, self.spec, self.resolved)

    @property
    def is_streamed(self) -> bool:
        """Whether train has more rows than its table."""
        return self.tables["train"].stream is not None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over train. The end of a stream is unknown, so its epoch is the whole run."""
        if self.is_streamed:
            return self.resolved.total_steps
        return steps_per_epoch(self.resolved, len(self.encoded["train"]), self.tiers)

    @cached_property
    def tiers(self) -> list[Tier]:
        """How the sequences of train share forward passes, if tokens are counted. Otherwise none."""
        return tiers_of(self.resolved, lengths(self.encoded["train"])) if self.resolved.batch_tokens else []

    @property
    def rows_per_step(self) -> float:
        """Rows of an optimizer step, on average."""
        if self.tiers:
            return len(self.encoded["train"]) / self.steps_per_epoch
        return self.resolved.rows_per_step

    @property
    def scratch(self) -> Path:
        """Where an engine may write temporary files."""
        return self.out_dir / "staging"


@dataclass(frozen=True)
class Answers:
    """What a model answers for one split: the task's answer to each encoded row, in its order, and the mean loss."""

    each: list[Any]
    loss: float
