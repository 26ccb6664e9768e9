"""The tasks: what each requires of the rows, and the metrics that evaluate it.

The worker's half is in `worker/training/tasks/`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from app.specs.tasks.base import TaskSpec

NAMES = (
    "text-classification",
    "token-classification",
    "question-answering",
    "seq2seq",
    "causal-lm",
    "preference",
    "masked-lm",
    "sentence-embedding",
    "reranker",
)
"""Every task type. The module with that name, in snake case, defines the spec as `SPEC`."""

TASKS: dict[str, type[TaskSpec]] = {name: import_module(f"{__name__}.{name.replace('-', '_')}").SPEC for name in NAMES}
"""Every task type and its spec."""

if TYPE_CHECKING:
    Task = TaskSpec
else:
    Task = Annotated[Union[tuple(TASKS.values())], Field(discriminator="type")]  # noqa: UP007 - built from a table
"""The union of all task specs, discriminated by `type`."""

__all__ = ["TASKS", "Task", "TaskSpec"]
