"""How well a language model guesses tokens: perplexity and token accuracy, over the tokens that are learned."""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import torch

from worker.training.evaluation.metrics.table import Metrics
from worker.training.loop.losses import IGNORE_INDEX

Guesses = Sequence[dict[str, Any]]
"""For each row the summed `loss` (natural logarithm) of its learned tokens, and how many were guessed right (`correct`)."""
LARGEST = 700.0
"""Beyond this exponent a float64 is infinite."""


class TokenMetric(evaluate.Metric):
    """A metric over guesses; the references are how many tokens each row's guesses are of."""

    def _info(self) -> evaluate.MetricInfo:
        guesses = {"loss": datasets.Value("float64"), "correct": datasets.Value("int64")}
        features = datasets.Features({"predictions": guesses, "references": datasets.Value("int64")})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(description=about, citation="", inputs_description=about, features=features)


class Perplexity(TokenMetric):
    """The exponential of the mean loss of a token: among how many tokens the model is in doubt."""

    def _compute(self, *, predictions: Guesses, references: Sequence[int]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        mean = sum(guess["loss"] for guess in predictions) / max(1, sum(references))
        return {"perplexity": math.exp(min(mean, LARGEST))}


class TokenAccuracy(TokenMetric):
    """The share of tokens that were the likeliest to the model."""

    def _compute(self, *, predictions: Guesses, references: Sequence[int]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"token_accuracy": sum(guess["correct"] for guess in predictions) / max(1, sum(references))}


TOKENS: Metrics = {"perplexity": (Perplexity, "default"), "token_accuracy": (TokenAccuracy, "default")}


def token_answers(logits: torch.Tensor, wanted: torch.Tensor) -> list[tuple[float, int, int]]:
    """Summed loss, right guesses and count of the learned tokens of each row.

    `logits` (rows, tokens, vocabulary) and `wanted` (rows, tokens) belong to the same positions: nothing is shifted here.
    """
    learned = wanted != IGNORE_INDEX
    chosen, targets = logits[learned].float(), wanted[learned]
    losses = torch.nn.functional.cross_entropy(chosen, targets, reduction="none")
    right = chosen.argmax(dim=-1) == targets
    counts = learned.sum(dim=-1).tolist()
    return [
        (float(own.double().sum()), int(hits.sum()), count)
        for own, hits, count in zip(losses.split(counts), right.split(counts), counts, strict=True)
    ]
