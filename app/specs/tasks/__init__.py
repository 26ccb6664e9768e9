"""The tasks: what each needs of the rows, and how it is judged. The worker's half is in `worker/training/tasks/`."""

from typing import Annotated

from pydantic import Field

from app.specs.tasks.base import TaskSpec
from app.specs.tasks.causal_lm import CausalLM
from app.specs.tasks.masked_lm import MaskedLM
from app.specs.tasks.preference import Preference
from app.specs.tasks.question_answering import QuestionAnswering
from app.specs.tasks.sentence_embedding import SentenceEmbedding
from app.specs.tasks.seq2seq import Seq2Seq
from app.specs.tasks.text_classification import TextClassification
from app.specs.tasks.token_classification import TokenClassification

Task = Annotated[
    TextClassification
    | TokenClassification
    | QuestionAnswering
    | Seq2Seq
    | CausalLM
    | Preference
    | MaskedLM
    | SentenceEmbedding,
    Field(discriminator="type"),
]
"""The union of all task specs, told apart by `type`."""

TASKS: dict[str, type[TaskSpec]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "seq2seq": Seq2Seq,
    "causal-lm": CausalLM,
    "preference": Preference,
    "masked-lm": MaskedLM,
    "sentence-embedding": SentenceEmbedding,
}
"""Every task type and its spec."""

__all__ = ["TASKS", "Task", "TaskSpec"]
