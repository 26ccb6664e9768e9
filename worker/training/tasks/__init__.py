"""The tasks by the `task.type` of the spec."""

from worker.training.tasks.protocol import Task
from worker.training.tasks.question_answering import QuestionAnsweringTask
from worker.training.tasks.text_classification import TextClassificationTask
from worker.training.tasks.token_classification import TokenClassificationTask

TASKS: dict[str, Task] = {
    "text-classification": TextClassificationTask(),
    "token-classification": TokenClassificationTask(),
    "question-answering": QuestionAnsweringTask(),
}

__all__ = ["TASKS", "Task"]
