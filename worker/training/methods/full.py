"""Every weight is tuned."""

from pathlib import Path
from typing import Any

from app.specs import JobSpec
from worker.training.planning.plan import Plan
from worker.training.tasks.protocol import Task


class FullMethod:
    """The plain case: what is trained is what is kept and published."""

    may_round_frozen = False

    def begin(self, task: Task, base: Path, spec: JobSpec, labels: list[str]) -> tuple[Any, tuple[str, ...]]:
        """The pretrained model with its new head."""
        return task.build_model(base, spec, labels)

    def base(self, plan: Plan) -> Any:
        """The pretrained model with its new head."""
        return plan.task.build_model(plan.base, plan.spec, plan.resolved.labels)[0]

    def load(self, plan: Plan, folder: Path, *, trainable: bool) -> Any:
        """The model, whole."""
        return plan.task.load_model(folder, plan.spec)

    def publishes_as_trained(self, spec: JobSpec) -> bool:
        """Always."""
        return True

    def export(self, plan: Plan, folder: Path) -> Path:
        """The checkpoint as it is."""
        return folder
