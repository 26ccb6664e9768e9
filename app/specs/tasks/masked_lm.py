"""Guessing hidden words, to make an encoder at home in the texts of a field (BERT: Devlin et al., 2019)."""

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from app.specs.tasks.base import Columns, Fault, Limits, Row, TaskSpec, text_faults


class MaskedLM(TaskSpec):
    """Train an encoder further on texts of your field, without labels."""

    required_roles: ClassVar[tuple[str, ...]] = ("text",)
    limits: ClassVar[Limits] = {"training.class_weights": (None,)}

    type: Literal["masked-lm"] = Field(description="The task type.")
    mask_probability: float = Field(
        default=0.15, gt=0, lt=1, description="The share of tokens that are hidden and to be guessed."
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Over the hidden tokens."""
        return ("perplexity", "token_accuracy")

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows without text."""
        return text_faults(row, columns, "text")
