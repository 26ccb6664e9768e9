"""How near predicted numbers are to the true ones, computed by SciPy and scikit-learn."""

import math
from collections.abc import Sequence
from typing import Any, cast

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, root_mean_squared_error

from worker.training.evaluation.metrics.table import Metrics

Numbers = Sequence[float]


def _correlation(which: Any) -> Any:
    def correlation(references: Any, predictions: Any) -> float:
        # Numbers that are all alike go up and down with nothing.
        if np.ptp(references) == 0 or np.ptp(predictions) == 0:
            return 0.0
        found = float(which(references, predictions).statistic)
        return found if math.isfinite(found) else 0.0

    return correlation


def _r2(references: Any, predictions: Any) -> float:
    # Undefined for one row: there is no variance to explain.
    return math.nan if len(references) < 2 else r2_score(references, predictions)  # noqa: PLR2004


SCORES: dict[str, Any] = {
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
    "mse": mean_squared_error,
    "rmse": root_mean_squared_error,
    "mae": mean_absolute_error,
    "r2": _r2,
}


class NumberMetric(evaluate.Metric):
    """A metric over numbers; its configuration is which of the `SCORES`."""

    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(description=about, citation="", inputs_description=about, features=numbers)

    def _compute(self, *, predictions: Numbers, references: Numbers) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        name = cast("str", self.config_name)
        return {name: float(SCORES[name](np.asarray(references), np.asarray(predictions)))}


NUMBERS: Metrics = {name: (NumberMetric, name) for name in SCORES}
