"""How well texts are found by texts that belong to them, from the rank of each."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from worker.training.evaluation.metrics.table import Metrics

Finds = Sequence[dict[str, Any]]
"""For each row the `rank` (from 1) of its positive, and whether that was `nearer` than the negative."""


class RetrievalMetric(evaluate.Metric):
    """A metric over finds; the references are the rows' own places, which nothing is made of."""

    def _info(self) -> evaluate.MetricInfo:
        finds = {"rank": datasets.Value("int64"), "nearer": datasets.Value("bool")}
        features = datasets.Features({"predictions": finds, "references": datasets.Value("int64")})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(description=about, citation="", inputs_description=about, features=features)


class ReciprocalRank(RetrievalMetric):
    """The mean of one over the rank: 1 where every positive is found first."""

    def _compute(self, *, predictions: Finds, references: Sequence[int]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"mrr": float(np.mean([1 / find["rank"] for find in predictions]))}


class RecallAtOne(RetrievalMetric):
    """The share of rows whose positive is found first."""

    def _compute(self, *, predictions: Finds, references: Sequence[int]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"recall_at_1": float(np.mean([find["rank"] == 1 for find in predictions]))}


class CosineAccuracy(RetrievalMetric):
    """The share of rows whose positive is nearer than the negative."""

    def _compute(self, *, predictions: Finds, references: Sequence[int]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"cosine_accuracy": float(np.mean([find["nearer"] for find in predictions]))}


RETRIEVAL: Metrics = {
    "mrr": (ReciprocalRank, "default"),
    "recall_at_1": (RecallAtOne, "default"),
    "cosine_accuracy": (CosineAccuracy, "default"),
}


def finds(anchors: np.ndarray[Any, Any], positives: np.ndarray[Any, Any], negatives: Any) -> list[dict[str, Any]]:
    """The finds of rows of unit vectors (rows by dimensions). Without negatives, the next row's positive is one.

    A positive shares its rank with texts that are just as near, so that vectors that are all alike find nothing.
    """
    others = np.roll(positives, -1, axis=0) if negatives is None else negatives
    own = np.einsum("rd,rd->r", anchors, positives)
    nearer = own > np.einsum("rd,rd->r", anchors, others)
    ranks = np.concatenate(
        [
            (anchors[start : start + 512] @ positives.T >= own[start : start + 512, None] - 1e-7).sum(axis=1)
            for start in range(0, len(anchors), 512)
        ]
    )
    return [
        {"rank": max(1, int(rank)), "nearer": bool(is_nearer)} for rank, is_nearer in zip(ranks, nearer, strict=True)
    ]
