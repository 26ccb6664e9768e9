"""From one text to another: summaries, translations, and other tasks for an encoder-decoder."""

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.specs.tasks.base import Columns, Example, Fault, Limits, Role, Row, TaskSpec, text_faults


class Seq2Seq(TaskSpec):
    """Write a text from another: a summary, a translation, an answer."""

    known_roles: ClassVar[tuple[Role, ...]] = (
        Role("source", ("document", "article", "text", "input")),
        Role("target", ("summary", "translation", "output"), is_answer=True),
    )
    example: ClassVar[Example] = {
        "name": "into-spanish",
        "task": {"type": "seq2seq", "problem": "translation", "prefix": "translate English to Spanish: "},
        "model": "google-t5/t5-small",
        "data": {"train": {"rows": [{"source": "Good morning.", "target": "Buenos días."}]}},
    }
    limits: ClassVar[Limits] = {"training.class_weights": (None,)}

    type: Literal["seq2seq"] = Field(description="The task type.")
    problem: Literal["text-to-text", "summarization", "translation"] = Field(
        default="text-to-text", description="The relation of target and source; it selects the usual metrics."
    )
    prefix: str = Field(
        default="", max_length=1000, description="A prefix of each source, such as `summarize: ` for T5 models."
    )
    source_language: str | None = Field(
        default=None, max_length=50, description="For multilingual models: the tokenizer's code of the source language."
    )
    target_language: str | None = Field(
        default=None, max_length=50, description="For multilingual models: the tokenizer's code of the target language."
    )
    max_target_length: int = Field(
        default=128,
        ge=2,
        le=100_000,
        description="Maximum number of tokens of a target, and of the texts that are generated for evaluation.",
    )
    num_beams: int = Field(
        default=1,
        ge=1,
        le=64,
        description="The number of beams of the beam search, in evaluation and in the published generation config.",
    )

    @model_validator(mode="after")
    def _languages_come_in_pairs(self) -> Self:
        if (self.source_language is None) != (self.target_language is None):
            raise ValueError(
                "'source_language' and 'target_language' must be given together; for one language, use it for both"
            )
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """ROUGE, BLEU, chrF and exact match of the generated texts; perplexity of the targets."""
        return ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match", "perplexity")

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Those that are usually reported for the problem."""
        return {
            "text-to-text": ("rougeL", "exact_match"),
            "summarization": ("rougeL", "rouge1", "rouge2"),
            "translation": ("bleu", "chrf"),
        }[self.problem]

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows that lack a source or a target."""
        return text_faults(row, columns, "source", "target")


SPEC = Seq2Seq
