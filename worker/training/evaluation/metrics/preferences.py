"""How often, and by how much, the chosen answer is preferred: over the rewards that DPO gives (Rafailov et al., 2023)."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from worker.training.evaluation.metrics.table import Metrics

Rewards = Sequence[float]


class RewardMetric(evaluate.Metric):
    """A metric over rewards: predictions are those of the chosen answers, references those of the rejected."""

    def _info(self) -> evaluate.MetricInfo:
        rewards = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(description=about, citation="", inputs_description=about, features=rewards)


class RewardAccuracy(RewardMetric):
    """The share of rows whose chosen answer has the greater reward."""

    def _compute(self, *, predictions: Rewards, references: Rewards) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"reward_accuracy": float(np.mean(np.asarray(predictions) > np.asarray(references)))}


class RewardMargin(RewardMetric):
    """By how much the reward of the chosen answer is greater, on the mean."""

    def _compute(self, *, predictions: Rewards, references: Rewards) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"reward_margin": float(np.mean(np.asarray(predictions) - np.asarray(references)))}


PREFERENCES: Metrics = {"reward_accuracy": (RewardAccuracy, "default"), "reward_margin": (RewardMargin, "default")}
