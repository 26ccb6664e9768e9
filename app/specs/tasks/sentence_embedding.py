"""Vectors that place texts that belong together near each other (Sentence-BERT: Reimers and Gurevych, 2019)."""

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from app.specs.tasks.base import Columns, Example, Fault, Limits, Role, Row, TaskSpec, text_faults


class SentenceEmbedding(TaskSpec):
    """Train an encoder to place texts that belong together near each other, for search and clustering."""

    known_roles: ClassVar[tuple[Role, ...]] = (
        Role("anchor", ("query", "sentence1")),
        Role("positive", ("sentence2", "pos")),
        Role("negative", ("neg",), is_required=False),
    )
    methods: ClassVar[tuple[str, ...]] = ("full", "lora")
    batchings: ClassVar[tuple[str, ...]] = ("no_duplicates", "length", "random")
    example: ClassVar[Example] = {
        "name": "search",
        "task": {"type": "sentence-embedding"},
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "data": {
            "train": {
                "rows": [
                    {
                        "anchor": "How do I reset my password?",
                        "positive": "Choose 'forgotten password' on the first page.",
                    },
                    {"anchor": "Where is my order?", "positive": "Parcels can be followed under 'My orders'."},
                ]
            }
        },
    }
    limits: ClassVar[Limits] = {
        "training.class_weights": (None,),
        "training.label_smoothing": (0.0,),
        "training.head_learning_rate": (None,),
    }

    type: Literal["sentence-embedding"] = Field(description="The task type.")
    pooling: Literal["mean", "cls"] = Field(
        default="mean",
        description="How the vector of a text is computed from those of its tokens: their mean, or the vector "
        "of the first token.",
    )
    scale: float = Field(
        default=20.0,
        gt=0,
        le=1000,
        description="The factor of the similarities in the loss: 1 / temperature.",
    )
    mini_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Texts that the model takes at once. Memory is then needed for so many texts, while the loss "
        "compares all texts of the batch. Each text is computed twice. Unset: the whole batch at once.",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """How well an anchor finds its positive among all positives, and distinguishes it from the negative."""
        return ("mrr", "recall_at_1", "cosine_accuracy")

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows that lack a text."""
        return text_faults(row, columns, "anchor", "positive", "negative")


SPEC = SentenceEmbedding
