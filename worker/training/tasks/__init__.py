"""The tasks by the `task.type` of the spec."""

from worker.training.tasks.causal_lm import CausalLMTask
from worker.training.tasks.masked_lm import MaskedLMTask
from worker.training.tasks.protocol import Task
from worker.training.tasks.seq2seq import Seq2SeqTask
from worker.training.tasks.text_classification import TextClassificationTask

TASKS: dict[str, Task] = {
    "text-classification": TextClassificationTask(),
    "seq2seq": Seq2SeqTask(),
    "causal-lm": CausalLMTask(),
    "masked-lm": MaskedLMTask(),
}

__all__ = ["TASKS", "Task"]
