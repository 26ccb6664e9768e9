"""F1 and exact match of answers taken from a text, by the rules of SQuAD 2's official script (Rajpurkar et al., 2018).

Predictions are texts, "" for none; references are lists of all right answers, empty where there is none. Case,
punctuation, articles and spaces do not count. A row scores as much as against the reference that fits it best.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from worker.training.evaluation.metrics.table import Metrics

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


class SpanMetric(evaluate.Metric):
    """The mean over rows; its configuration is which of the `SCORES`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.List(text)})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(description=about, citation="", inputs_description=about, features=features)

    def _compute(self, *, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        name = str(self.config_name)
        return {name: float(np.mean(scores(name, predictions, references)))}


def scores(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The score of each row, between 0 and 1."""
    return [_best(SCORES[name], predicted, right) for predicted, right in zip(predictions, references, strict=True)]


def _best(score: Callable[[list[str], list[str]], float], predicted: str, right: Sequence[str]) -> float:
    # An answer of nothing but articles and punctuation is none, as in the official script.
    golds = [words for words in map(_words, right) if words] or [[]]
    words = _words(predicted)
    return max(score(words, gold) for gold in golds)


def _words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def _exact_match(predicted: list[str], gold: list[str]) -> float:
    return float(predicted == gold)


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    same = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * same / (len(predicted) + len(gold))


SCORES = {"f1": _f1, "exact_match": _exact_match}
SPANS: Metrics = {name: (SpanMetric, name) for name in SCORES}
