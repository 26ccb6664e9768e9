"""The tasks by the `task.type` of the spec."""

from importlib import import_module

from worker.training.tasks.protocol import Task

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
"""Every task type. The module of this package with that name, in snake case, has the task as `TASK`."""

TASKS: dict[str, Task] = {name: import_module(f"{__name__}.{name.replace('-', '_')}").TASK for name in NAMES}

__all__ = ["TASKS", "Task"]
