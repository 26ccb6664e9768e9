"""What `auto` and defaults became, settled at the first attempt and kept for all later ones.

It is a stored document: workers of other versions read it too. Unknown fields are ignored, and a new field needs a default.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Resolved(BaseModel):
    """Enough, with the spec, to run the job again."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    labels: list[str] = Field(description="Class names in the order of their ids.")
    precision: str = Field(description="fp32, bf16 or fp16.")
    batch_size: int = Field(description="Rows a forward pass in training.")
    gradient_accumulation: int = Field(description="Forward passes an optimiser step.")
    eval_batch_size: int = Field(description="Rows a forward pass in evaluation.")
    device: str = Field(description="cpu or cuda.")
    max_length: int = Field(description="Tokens a row at most, after the model's own limit.")
    total_steps: int = Field(description="Optimiser steps of the whole run.")
    metrics: list[str] = Field(description="The metrics computed.")
    best_by: str | None = Field(description="The metric that picks the best checkpoint; null without evaluation.")
    model_commit: str | None = Field(description="The hub commit of the model; null for local models.")
    datasets: dict[str, str] = Field(
        description="Split to a hash of the rows used, in order; of a stream, of where they come from."
    )
    dataset_commits: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Split to the hub commit of its dataset, where it is one of the hub.",
    )
    rows: dict[str, int] = Field(description="Split to the number of rows used, where it is not streamed.")
    skipped_rows: int = Field(description="Unusable rows left out, with on_bad_row 'skip'.")
    versions: dict[str, str] = Field(description="Versions of Python and the packages that shape results.")

    @classmethod
    def read(cls, stored: Mapping[str, Any], asked_accumulation: int) -> "Resolved":
        """Read what an attempt settled. Earlier versions left the accumulation as the spec asked for it."""
        return cls.model_validate({"gradient_accumulation": asked_accumulation, **stored})
