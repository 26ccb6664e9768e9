"""What a method is to the rest of training: which weights are tuned, and what of them is kept and published."""

from pathlib import Path
from typing import Any, Protocol

from app.specs import JobSpec
from worker.training.planning.plan import Plan
from worker.training.tasks.protocol import Task


class Method(Protocol):
    """One way to tune a model. Models are in float32, on the CPU, unless said otherwise."""

    may_round_frozen: bool
    """Whether frozen weights may be kept in bf16, because no checkpoint holds them."""

    def begin(self, task: Task, base: Path, spec: JobSpec, labels: list[str]) -> tuple[Any, tuple[str, ...]]:
        """The model before the first step, whose `save_pretrained` makes the initial folder.

        Returns it and the names of the randomly initialized parameters of the head. Raises ModelRefused or ModelConfigInvalid.
        """
        ...

    def base(self, plan: Plan) -> Any:
        """The model as it was before training, new head included."""
        ...

    def load(self, plan: Plan, folder: Path, *, trainable: bool) -> Any:
        """The model of the initial folder or of a checkpoint, ready for training or for prediction."""
        ...

    def publishes_as_trained(self, spec: JobSpec) -> bool:
        """Whether the published weights are exactly the trained ones, so that an evaluation in training holds for them."""
        ...

    def export(self, plan: Plan, folder: Path) -> Path:
        """The folder to publish for the checkpoint in `folder`: itself, or one made from it in the plan's scratch folder."""
        ...
