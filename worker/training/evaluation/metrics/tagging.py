"""F1, precision, recall and accuracy of tagged words: of whole entities by seqeval, or of words by scikit-learn.

Predictions and references are lists of BIO tags ("B-PER"), one a row, where entities count; or class ids, one a word,
where words count. The id `UNPREDICTED` is of a word that the model said nothing of: it is wrong, and no class of its own.
"""

from collections.abc import Sequence
from typing import Any, cast

import datasets
import evaluate
import numpy as np
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as of_entities
from sklearn.metrics import precision_recall_fscore_support as of_classes

from worker.training.evaluation.metrics.table import Metrics

UNPREDICTED = -1
SCORES = ("precision", "recall", "f1")
Tags = Sequence[Sequence[str]] | Sequence[int]


class TagMetric(evaluate.Metric):
    """A metric over tags; its configuration says which."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")})
        rows = datasets.Features({name: datasets.List(datasets.Value("string")) for name in ids})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(
            description=about, citation="", inputs_description=about, features=cast("Any", [ids, rows])
        )

    def _compute(self, *, predictions: Tags, references: Tags) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        predicted, true = list(predictions), list(references)
        name = str(self.config_name)
        return {
            name: _accuracy(predicted, true)
            if name == "accuracy"
            else float(_scores(predicted, true)[SCORES.index(name)])
        }


TAGS: Metrics = {name: (TagMetric, name) for name in ("f1", "precision", "recall", "accuracy")}
"""Accuracy counts words. The others count entities of all names together, as the CoNLL tasks do; of words, each tag alike."""


def per_class(predictions: Tags, references: Tags, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and how many there are, for each name of an entity, or for each tag of `names`."""
    measured: Any
    if isinstance(references[0], int):
        measured = of_classes(references, predictions, labels=range(len(names)), zero_division=0)  # pyright: ignore[reportArgumentType]
        counted = "words"
    else:
        measured = of_entities(references, predictions, average=None, zero_division=0)  # pyright: ignore[reportArgumentType]
        rows = cast("Sequence[Sequence[str]]", [*references, *predictions])
        names, counted = sorted({tag[2:] for row in rows for tag in row if tag != "O"}), "entities"
    return {
        name: {score: float(measured[at][number]) for at, score in enumerate(SCORES)}
        | {counted: int(measured[3][number])}
        for number, name in enumerate(names)
    }


def _scores(predicted: Any, true: Any) -> Sequence[Any]:
    if not isinstance(true[0], int):
        return of_entities(true, predicted, average="micro", zero_division=0)  # pyright: ignore[reportArgumentType]
    classes = np.setdiff1d(np.union1d(predicted, true), [UNPREDICTED])
    return of_classes(true, predicted, labels=classes, average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]


def _accuracy(predicted: Any, true: Any) -> float:
    if not isinstance(true[0], int):
        predicted, true = (np.concatenate([np.asarray(row) for row in rows]) for rows in (predicted, true))
    return float(np.mean(np.asarray(predicted) == np.asarray(true)))
