"""Prediction of masked tokens, which adapts an encoder to the texts of a field (BERT: Devlin et al., 2019)."""

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from app.specs.tasks.base import Columns, Example, Fault, Limits, Role, Row, TaskSpec, text_faults


class MaskedLM(TaskSpec):
    """Continue the pretraining of an encoder on texts of your field, without labels."""

    known_roles: ClassVar[tuple[Role, ...]] = (Role("text", ("sentence", "review", "content", "body", "comment")),)
    example: ClassVar[Example] = {
        "name": "medical-words",
        "task": {"type": "masked-lm"},
        "model": "google-bert/bert-base-cased",
        "data": {"train": {"rows": [{"text": "The patient was given 5 mg of warfarin daily."}]}},
    }
    limits: ClassVar[Limits] = {"training.class_weights": (None,)}

    type: Literal["masked-lm"] = Field(description="The task type.")
    mask_probability: float = Field(
        default=0.15, gt=0, lt=1, description="The fraction of tokens that are masked and must be predicted."
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Over the masked tokens."""
        return ("perplexity", "token_accuracy")

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows without text."""
        return text_faults(row, columns, "text")


SPEC = MaskedLM
