"""The training state of a run: when to evaluate and save, what was best so far, and when to end early.

Plain numbers, no framework: every engine follows the same state, and it travels in `tunesmith.json` of each
checkpoint, so that a resumed run goes on as if it had never stopped.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from app.specs import JobSpec, Resolved
from worker.training.errors import LossNotFinite
from worker.training.evaluation.metrics import greater_is_better

FILE_NAME = "tunesmith.json"
Metrics = dict[str, float | None]
"""Name to value; None where a metric is undefined for the rows."""


@dataclass
class TrainingState:
    """Counts optimizer steps from 1. `best_*` is None until an evaluation after the first step."""

    spec: JobSpec
    total_steps: int
    steps_per_epoch: int
    best_by: str | None
    step: int = 0
    evaluated_step: int | None = None
    metrics: Metrics = field(default_factory=dict[str, float | None])
    """Of the last evaluation."""
    baseline: Metrics | None = None
    """Of the evaluation before the first step."""
    best_step: int | None = None
    best_metrics: Metrics = field(default_factory=dict[str, float | None])
    without_improvement: int = 0
    loss_sum: float = 0.0
    """Sum of the training loss over all steps."""
    ended_early: bool = False
    head: tuple[str, ...] = ()
    """Names of the parameters that were randomly initialized for this task."""

    @classmethod
    def begin(cls, spec: JobSpec, resolved: Resolved, steps_per_epoch: int, head: tuple[str, ...]) -> "TrainingState":
        """The state before the first step."""
        return cls(spec, resolved.total_steps, steps_per_epoch, resolved.best_by, head=head)

    @classmethod
    def resume(cls, spec: JobSpec, resolved: Resolved, steps_per_epoch: int, folder: Path) -> "TrainingState":
        """The state at a checkpoint. What another version wrote there, and this one does not know, is ignored."""
        values = cast("dict[str, Any]", json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))
        saved = {name: value for name, value in values.items() if name in {known.name for known in fields(cls)}}
        saved["head"] = tuple(saved.get("head", ()))
        return cls(spec, resolved.total_steps, steps_per_epoch, resolved.best_by, **saved)

    @staticmethod
    def head_at(folder: Path) -> tuple[str, ...]:
        """The names of the randomly initialized parameters of the run that wrote this checkpoint."""
        return tuple(json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["head"])

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint folder that is being built."""
        given = ("spec", "total_steps", "steps_per_epoch", "best_by")
        values = {name: value for name, value in vars(self).items() if name not in given}
        (folder / FILE_NAME).write_text(json.dumps(values, indent=1, allow_nan=False), encoding="utf-8")

    @property
    def epoch(self) -> float:
        """Passes over train so far."""
        return self.step / self.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.ended_early or self.step >= self.total_steps

    @property
    def evaluation_due(self) -> bool:
        """Whether this step is to be evaluated and was not yet."""
        if not self.spec.evaluates or self.evaluated_step == self.step:
            return False
        if self.step == 0:
            return self.spec.evaluation.at_start
        return self._comes(self.spec.evaluation.strategy, self.spec.evaluation.every)

    @property
    def checkpoint_due(self) -> bool:
        """Whether the spec wants a checkpoint at this step."""
        return self._comes(self.spec.checkpoints.strategy, self.spec.checkpoints.every)

    @property
    def evaluations_left(self) -> int:
        """How many evaluations come after this step, the one that is due now included."""
        if not self.spec.evaluates:
            return 0
        return self._left(self.spec.evaluation.strategy, self.spec.evaluation.every) + int(self.evaluation_due)

    @property
    def checkpoints_left(self) -> int:
        """How many checkpoints come after this step, without those of a new best."""
        return self._left(self.spec.checkpoints.strategy, self.spec.checkpoints.every)

    @property
    def is_best(self) -> bool:
        """Whether the model of this step is the best so far."""
        return self.best_step == self.step

    @property
    def train_loss(self) -> float | None:
        """The mean training loss over all steps so far."""
        return self.loss_sum / self.step if self.step else None

    def evaluated(self, metrics: Mapping[str, float | None]) -> None:
        """Record an evaluation at this step. Raises LossNotFinite if its loss is NaN or infinite."""
        loss = metrics["eval_loss"]
        if loss is None or not math.isfinite(loss):
            raise LossNotFinite(f"the eval loss at step {self.step} is {loss}")
        self.evaluated_step, self.metrics = self.step, dict(metrics)
        if self.step == 0:
            self.baseline = dict(metrics)
            return
        gain = self._gain(metrics)
        stopping = self.spec.training.early_stopping
        if gain > 0 or self._wins_tie(metrics):
            self.best_step, self.best_metrics = self.step, dict(metrics)
        if stopping is None or gain > stopping.min_delta:
            self.without_improvement = 0
        else:
            self.without_improvement += 1
            self.ended_early = self.without_improvement >= stopping.patience

    def forget_best(self) -> None:
        """Drop the best so far, because its checkpoint is gone."""
        self.best_step, self.best_metrics = None, {}

    def _left(self, strategy: str, every: int | None) -> int:
        if strategy == "none" or self.finished:
            return 0
        period = self._period(strategy, every)
        return math.ceil(self.total_steps / period) - self.step // period

    def _period(self, strategy: str, every: int | None) -> int:
        return every if strategy == "steps" and every else self.steps_per_epoch

    def _comes(self, strategy: str, every: int | None) -> bool:
        if strategy == "none" or self.step == 0:
            return False
        if self.finished:
            return True
        return self.step % self._period(strategy, every) == 0

    def _gain(self, metrics: Mapping[str, float | None]) -> float:
        # By how much this evaluation is better than the best before it, whichever way the metric points.
        if self.best_by is None:
            return 0.0
        value, best = metrics[f"eval_{self.best_by}"], self.best_metrics.get(f"eval_{self.best_by}")
        if value is None:
            return -math.inf
        if best is None:
            return math.inf
        difference = value - best
        return difference if greater_is_better(self.best_by) else -difference

    def _wins_tie(self, metrics: Mapping[str, float | None]) -> bool:
        """Whether the metric equals that of the best, and the loss is lower, or equal at this later step."""
        if self.best_by is None or self._gain(metrics) != 0:
            return False
        return cast("float", metrics["eval_loss"]) <= cast("float", self.best_metrics["eval_loss"])
