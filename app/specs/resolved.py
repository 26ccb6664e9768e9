"""The values that the first attempt chose for `auto` and defaults. All later attempts use them.

This is a stored document, which workers of other versions read, too. Unknown fields are ignored, and a new field needs
a default.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Attention(BaseModel):
    """The attention that ran."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = Field(
        description="packed, blockwise, sdpa, eager, flash_attention_2, or what else transformers calls it."
    )
    reason: str = Field(description="Why this one, and why none that is faster.")


class Kernel(BaseModel):
    """A faster way to compute something, and whether it ran."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = Field(description="Which.")
    used: bool = Field(description="Whether it ran.")
    reason: str = Field(description="Why it ran, or why it did not.")


class Resolved(BaseModel):
    """Together with the spec, enough to run the job again."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    labels: list[str] = Field(description="Class names in the order of their ids.")
    precision: str = Field(description="fp32, bf16 or fp16.")
    batch_size: int = Field(description="Rows per forward pass in training; with `batch_tokens`, of the longest rows.")
    batch_tokens: int | None = Field(
        default=None, description="Tokens per forward pass in training, padding included; null if rows are counted."
    )
    gradient_accumulation: int = Field(description="Forward passes per optimizer step.")
    eval_batch_size: int = Field(description="Rows per forward pass in evaluation.")
    device: str = Field(description="cpu or cuda.")
    max_length: int = Field(description="Maximum number of tokens per row, after the model's own limit.")
    total_steps: int = Field(description="Optimizer steps of the whole run.")
    metrics: list[str] = Field(description="The metrics computed.")
    best_by: str | None = Field(description="The metric that selects the best checkpoint; null without evaluation.")
    model_commit: str | None = Field(description="The hub commit of the model; null for local models.")
    datasets: dict[str, str] = Field(
        description="Split to a hash of the rows used, in order; for a stream, a hash of its source."
    )
    dataset_commits: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Split to the hub commit of its dataset, if it comes from the hub.",
    )
    rows: dict[str, int] = Field(description="Split to the number of rows used, unless it is streamed.")
    skipped_rows: int = Field(description="Unusable rows left out, with on_bad_row 'skip'.")
    batching: str = Field(
        default="random",
        description="Which rows share a batch: length, random or no_duplicates. Jobs of earlier versions are random.",
    )
    attention: Attention | None = Field(
        default=None, description="The attention that ran in the first step of the latest attempt; null before that."
    )
    kernels: list[Kernel] = Field(
        default_factory=list[Kernel],
        description="The faster ways to compute that ran in the latest attempt, and those that did not.",
    )
    versions: dict[str, str] = Field(description="Versions of Python and of the packages that affect results.")

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step. Halving the batch size keeps their number."""
        return self.batch_size * self.gradient_accumulation

    @classmethod
    def read(cls, stored: Mapping[str, Any], asked_accumulation: int) -> "Resolved":
        """Read the values that an attempt resolved.

        Earlier versions did not store the accumulation, so it comes from the spec.
        """
        return cls.model_validate({"gradient_accumulation": asked_accumulation, **stored})
