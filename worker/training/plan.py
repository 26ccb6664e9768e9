"""What is settled before the first step, and what a model says about a split. Engines and their surroundings share it."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from app.specs import JobSpec, Resolved
from worker.training.reports import Reporter
from worker.training.tasks.protocol import Task


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
    encoded: dict[str, datasets.Dataset]
    """Split to its tokens and targets."""
    out_dir: Path
    resume_from: Path | None
    report: Reporter
    stop: threading.Event
    threads: int | None = None
    """CPU threads, for engines that compute in a process of their own."""
    tensorflow_python: Path | None = None
    """The interpreter of the environment that has TensorFlow."""

    @property
    def scratch(self) -> Path:
        """Where an engine may write what nobody keeps."""
        return self.out_dir / "staging"


@dataclass(frozen=True)
class Predictions:
    """Logits (rows by classes, float32) and targets of one split in its order, and the mean loss."""

    logits: np.ndarray[Any, Any]
    targets: list[int]
    loss: float
