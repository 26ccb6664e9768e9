"""What does not work with `training.batch_tokens`: what decides otherwise which rows share a forward pass."""

from typing import Any

from app.specs.training import Training


def token_batch_incompatibility(spec: Any) -> tuple[str, str] | None:
    """The first field that does not work with batches of tokens, and why. None if all works together."""
    training, tokenization = spec.training, spec.tokenization
    if training.batch_tokens is None:
        return None
    if training.batch_size != Training.model_fields["batch_size"].default:
        return "training.batch_size", "give either 'batch_size' or 'batch_tokens', not both"
    if (spec.task.batchings[0] if training.batching == "auto" else training.batching) != "length":
        return "training.batching", "must be 'length' with training.batch_tokens, which groups rows by their length"
    if tokenization.padding != "longest":
        return "tokenization.padding", "must be 'longest' with training.batch_tokens; otherwise every row is as long"
    if training.batch_tokens < tokenization.max_length:
        return (
            "training.batch_tokens",
            f"must be at least tokenization.max_length ({tokenization.max_length}), so that the longest row fits",
        )
    return None
