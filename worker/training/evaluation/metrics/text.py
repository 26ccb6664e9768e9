"""How near written texts are to their targets: ROUGE by rouge-score, BLEU and chrF by sacrebleu, and what is exactly right.

ROUGE, exact match: from 0 to 1. BLEU, chrF: from 0 to 100, as the field reports them.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, cast

import datasets
import evaluate
import sacrebleu
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

from worker.training.evaluation.metrics.table import Metrics
from worker.training.evaluation.metrics.tokens import LARGEST

Written = Sequence[dict[str, Any]]
"""For each row the `text` that was written, and of its target the summed `loss` and the number of `tokens`."""
SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Kana and Han, which are written without spaces."""
WORD = re.compile(rf"[{SINGLE}]|[^\W_{SINGLE}]+")
STEMMED_FROM = 4
"""The stemmer of ROUGE leaves shorter words as they are."""


class Words:
    """The words of a text as ROUGE compares them.

    Those of rouge-score's own tokenizer in English. That one sees no other letters than a to z, here those of every script count.
    """

    def __init__(self) -> None:
        self._stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """Lower-case words, the longer ones without their English endings."""
        words = cast("list[str]", WORD.findall(text.lower()))
        return [self._stemmer.stem(word) if len(word) >= STEMMED_FROM and word.isascii() else word for word in words]


class TextMetric(evaluate.Metric):
    """A metric over written texts and their targets."""

    def _info(self) -> evaluate.MetricInfo:
        written = {
            "text": datasets.Value("string"),
            "loss": datasets.Value("float64"),
            "tokens": datasets.Value("int64"),
        }
        features = datasets.Features({"predictions": written, "references": datasets.Value("string")})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(description=about, citation="", inputs_description=about, features=features)


class Rouge(TextMetric):
    """The F-measure of shared words, pairs of words, or the longest common subsequence: the mean over the rows."""

    def _compute(self, *, predictions: Written, references: Sequence[str]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        name = cast("str", self.config_name)
        scorer = RougeScorer([name], tokenizer=cast("Any", Words()))
        scores = [
            scorer.score(target, written["text"])[name].fmeasure
            for target, written in zip(references, predictions, strict=True)
        ]
        return {name: sum(scores) / max(1, len(scores))}


class Bleu(TextMetric):
    """Corpus BLEU with sacrebleu's defaults (13a, exponential smoothing)."""

    def _compute(self, *, predictions: Written, references: Sequence[str]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"bleu": sacrebleu.corpus_bleu([written["text"] for written in predictions], [references]).score}


class Chrf(TextMetric):
    """Corpus chrF2 with sacrebleu's defaults."""

    def _compute(self, *, predictions: Written, references: Sequence[str]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"chrf": sacrebleu.corpus_chrf([written["text"] for written in predictions], [references]).score}


class ExactMatch(TextMetric):
    """The share of rows whose text is the target, however their words are spaced."""

    def _compute(self, *, predictions: Written, references: Sequence[str]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        right = [
            written["text"].split() == target.split() for target, written in zip(references, predictions, strict=True)
        ]
        return {"exact_match": sum(right) / max(1, len(right))}


class TargetPerplexity(TextMetric):
    """The exponential of the mean loss of a target's token, each given those before it."""

    def _compute(self, *, predictions: Written, references: Sequence[str]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens = sum(written["tokens"] for written in predictions)
        mean = sum(written["loss"] for written in predictions) / max(1, tokens)
        return {"perplexity": math.exp(min(mean, LARGEST))}


WRITTEN: Metrics = {
    "rouge1": (Rouge, "rouge1"),
    "rouge2": (Rouge, "rouge2"),
    "rougeL": (Rouge, "rougeL"),
    "bleu": (Bleu, "default"),
    "chrf": (Chrf, "default"),
    "exact_match": (ExactMatch, "default"),
    "perplexity": (TargetPerplexity, "default"),
}
READ_FROM_TEXT = frozenset(WRITTEN) - {"perplexity"}
"""Those that need the model to write."""
