"""The tasks by the `task.type` of the spec."""

from collections.abc import Callable
from pathlib import Path

from app.specs import JobSpec, Resolved
from worker.training.tasks.causal_lm import CausalLMTask
from worker.training.tasks.masked_lm import MaskedLMTask
from worker.training.tasks.preference import PreferenceTask
from worker.training.tasks.protocol import Task
from worker.training.tasks.question_answering import QuestionAnsweringTask
from worker.training.tasks.sentence_embedding import SentenceEmbeddingTask, add_modules
from worker.training.tasks.seq2seq import Seq2SeqTask
from worker.training.tasks.text_classification import TextClassificationTask
from worker.training.tasks.token_classification import TokenClassificationTask

TASKS: dict[str, Task] = {
    "text-classification": TextClassificationTask(),
    "causal-lm": CausalLMTask(),
    "preference": PreferenceTask(),
    "sentence-embedding": SentenceEmbeddingTask(),
    "token-classification": TokenClassificationTask(),
    "question-answering": QuestionAnsweringTask(),
    "seq2seq": Seq2SeqTask(),
    "masked-lm": MaskedLMTask(),
}

REFERENCED = frozenset({"preference"})
"""Tasks that hold the model to what it said before training, and so need the pretrained one at every attempt."""

FINISHING: dict[str, Callable[[Path, JobSpec, Resolved], None]] = {
    "sentence-embedding": add_modules,
}
"""What some tasks add to the published folder, for libraries other than transformers."""

__all__ = ["FINISHING", "REFERENCED", "TASKS", "Task"]
