"""A task's encoding together with everything that the tokens depend on."""

from dataclasses import dataclass
from typing import Any

from app.specs import JobSpec, Resolved
from worker.training.inputs.table import Row
from worker.training.tasks.protocol import Task


@dataclass(frozen=True)
class Encoder:
    """Turns rows into tokens and targets."""

    task: Task
    tokenizer: Any
    spec: JobSpec
    resolved: Resolved

    def encode(self, rows: list[Row], split: str) -> dict[str, list[Any]]:
        """Tokens and targets of rows by feature name, as `Task.encode` returns them. Raises RowTooLong."""
        return self.task.encode(rows, self.tokenizer, self.spec, self.resolved.labels, self.resolved.max_length, split)
