"""One score for each pair of a query and a document.

{"query": "How do I reset my password?", "document": "Choose 'forgotten password'.", "label": 1, "_row": 3}
data.columns: {"query": "query", "document": "document", "label": "label"}
encoded: {"input_ids": [101, …, 102, …, 102], "token_type_ids": [0, …, 1], "labels": 1.0}
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import evaluate
import numpy as np
import torch
from sklearn.metrics import accuracy_score, ndcg_score
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from app.specs import JobSpec, Resolved
from app.specs.tasks.reranker import Reranker
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.regression import SCORES
from worker.training.inputs.table import Row
from worker.training.models.pretrained import build, load
from worker.training.tasks.protocol import (
    Batch,
    Collate,
    EvalPrediction,
    Features,
    Pass,
    Split,
    StepResult,
    Task,
    TrainingStep,
)
from worker.training.tokens.truncation import check_lengths, place_of

Numbers = np.ndarray[Any, Any]
PROBLEM_TYPES = {"label": "multi_label_classification", "score": "regression"}
"""What transformers calls the two: its pipeline applies a sigmoid to the first, and nothing to the second."""
ACTIVATIONS = {"label": "torch.nn.modules.activation.Sigmoid", "score": "torch.nn.modules.linear.Identity"}
"""What sentence-transformers applies to the model's output."""
FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
"""What sentence-transformers writes besides the model itself."""
DEPTH = 10


class RerankerMetric(evaluate.Metric):
    """A metric over scored documents; its configuration is which of the `MEASURES`."""

    def _info(self) -> evaluate.MetricInfo:
        scored = {"query": datasets.Value("int64"), "score": datasets.Value("float64")}
        features = datasets.Features({"predictions": scored, "references": datasets.Value("float64")})
        about = (type(self).__doc__ or "").strip()
        return evaluate.MetricInfo(description=about, citation="", inputs_description=about, features=features)

    def _compute(self, *, predictions: Sequence[dict[str, Any]], references: Sequence[float]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        name = cast("str", self.config_name)
        queries, scores = (np.asarray([scored[key] for scored in predictions]) for key in ("query", "score"))
        return {name: float(MEASURES[name](queries, scores, np.asarray(references)))}


def _over_queries(measure: Callable[[Numbers, Numbers], float]) -> Any:
    """The mean of a measure over the queries whose documents differ in their targets. Others cannot be ranked wrongly."""

    def mean(queries: Numbers, scores: Numbers, targets: Numbers) -> float:
        order = np.argsort(queries, kind="stable")
        places = np.split(order, np.flatnonzero(np.diff(queries[order])) + 1)
        return float(np.mean([measure(scores[own], targets[own]) for own in places if np.ptp(targets[own]) > 0]))

    return mean


def _ndcg(scores: Numbers, targets: Numbers) -> float:
    # A gain cannot be negative: where there are negative targets, the lowest is the gain 0.
    gains = targets - min(0.0, float(targets.min()))
    return float(ndcg_score([gains], [scores], k=DEPTH))


def _reciprocal_rank(scores: Numbers, targets: Numbers) -> float:
    # Documents with equal scores get the worst of their ranks, so that a constant model finds nothing.
    is_relevant = targets == targets.max()
    return 1 / (1 + int((scores[~is_relevant] >= scores[is_relevant].max()).sum()))


def _accuracy(_: Numbers, scores: Numbers, targets: Numbers) -> float:
    return float(accuracy_score(targets > 0, scores > 0))


def _spearman(_: Numbers, scores: Numbers, targets: Numbers) -> float:
    return float(SCORES["spearman"](targets, scores))


MEASURES: dict[str, Callable[[Numbers, Numbers, Numbers], float]] = {
    "ndcg_at_10": _over_queries(_ndcg),
    "mrr": _over_queries(_reciprocal_rank),
    "accuracy": _accuracy,
    "spearman": _spearman,
}
"""By name, each over the query, the score (before the sigmoid) and the target of every row."""


class RerankerTask(Task):
    """A sequence-classification head with one output over the encoder, which reads query and document together."""

    metrics: ClassVar[Metrics] = {name: (RerankerMetric, name) for name in MEASURES}
    pipeline: ClassVar[str] = "text-ranking"
    model_class: ClassVar[Any] = AutoModelForSequenceClassification
    peft_type: ClassVar[str | None] = "SEQ_CLS"

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained encoder with a head of one output; a head of one output that it brings is kept."""
        head = {
            "num_labels": 1,
            "problem_type": PROBLEM_TYPES[_target(spec)],
            "id2label": {0: "relevance"},
            "label2id": {"relevance": 0},
            "sentence_transformers": {"activation_fn": ACTIVATIONS[_target(spec)]},
        }
        return build(AutoModelForSequenceClassification, folder, spec, head, **kind)

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A reranker that was saved before."""
        return load(AutoModelForSequenceClassification, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """`input_ids` (and what else the model takes, less the all-ones mask), `labels`, and `truncated`.

        The longer text loses tokens first, as in `CrossEncoder.predict`: a query is truncated only if it is longer than
        half of `max_length`.
        """
        columns, truncation = spec.columns, spec.tokenization.truncation
        queries, documents = ([row[columns[role]] for row in rows] for role in ("query", "document"))
        encoded = tokenizer(
            queries, documents, truncation=truncation, max_length=max_length if truncation else None, verbose=False
        )
        if not truncation:
            check_lengths(rows, encoded["input_ids"], max_length, columns["document"])
        features = {name: values for name, values in encoded.items() if name != "attention_mask"}
        return {
            **features,
            "labels": [float(row[columns[_target(spec)]]) for row in rows],
            "truncated": [bool(encoding.overflowing) for encoding in encoded.encodings or ()] or [False] * len(rows),
        }

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """Pad to the longest pair of the batch, or to `max_length`."""
        pad = DataCollatorWithPadding(tokenizer, padding=spec.tokenization.padding, max_length=max_length)

        def collate(rows: list[Features]) -> Batch:
            inputs = dict(pad(rows))
            targets = {"labels": inputs.pop("labels")}
            return Batch(inputs, targets, num_items=len(rows))

        return collate

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """Binary cross entropy of labels, squared error of scores."""
        functional = torch.nn.functional
        loss = functional.binary_cross_entropy_with_logits if _target(spec) == "label" else functional.mse_loss

        def step(model: Any, batch: Batch) -> StepResult:
            outputs = model(**batch.inputs)
            found = loss(outputs["logits"].float()[:, 0], batch.targets["labels"].float(), reduction="sum")
            return StepResult(found, batch.num_items, outputs)

        return step

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """The output of each row (float), before the sigmoid."""
        return cast("list[Any]", done.outputs["logits"].float()[:, 0].cpu().tolist())

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """The scores, each with a number for its query, and the targets."""
        numbers: dict[str, int] = {}
        queries = [numbers.setdefault(text, len(numbers)) for text in split.rows[split.spec.columns["query"]]]
        scored = [{"query": query, "score": score} for query, score in zip(queries, answers, strict=True)]
        return EvalPrediction(scored, cast("Any", split.encoded.data).column("labels").to_pylist())

    def chance(self, split: Split, evaluated: EvalPrediction) -> dict[str, float]:
        """Of labels, the share of the more frequent one."""
        share = float(np.mean(evaluated.references))
        return {"accuracy": max(share, 1 - share)} if _target(split.spec) == "label" else {}

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place, texts, the target, and what CrossEncoder predicts."""
        columns, target = split.spec.columns, _target(split.spec)
        activation = torch.sigmoid if target == "label" else torch.nn.Identity()
        predicted = activation(torch.tensor(answers, dtype=torch.float64)).tolist()
        for row, score in zip(split.rows, predicted, strict=True):
            cells = {role: row[columns[role]] for role in ("query", "document", target)}
            yield {**place_of(row), **cells, "predicted": round(score, 6)}

    def finish(self, folder: Path, spec: JobSpec, resolved: Resolved) -> None:
        """Add what sentence-transformers loads besides the model: its activation and `max_length`."""
        if not (folder / "config.json").is_file():
            # An adapter alone goes onto a model that has these.
            return
        from sentence_transformers import CrossEncoder  # noqa: PLC0415 - it takes seconds

        written = folder.with_name("cross-encoder")
        CrossEncoder(str(folder), device="cpu", local_files_only=True).save_pretrained(
            str(written), create_model_card=False
        )
        settings = written / "sentence_bert_config.json"
        limited = {**json.loads(settings.read_text()), "max_seq_length": resolved.max_length}
        settings.write_text(json.dumps(limited, indent=4))
        for name in FILES:
            shutil.copyfile(written / name, folder / name)
        shutil.rmtree(written)

    def use(self, spec: JobSpec) -> str:
        """With sentence-transformers, whose files are in the model folder."""
        return (
            "from sentence_transformers import CrossEncoder\n\n"
            'model = CrossEncoder("FOLDER")\nprint(model.rank("…", ["…", "…"], return_documents=True))'
        )


def _target(spec: JobSpec) -> str:
    return cast("Reranker", spec.task).target


TASK = RerankerTask()
