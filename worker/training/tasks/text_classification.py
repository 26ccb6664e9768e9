"""One label for each text, or for each pair of texts; or several labels; or a number.

{"review": "Effective but too tepid biopic", "stars": "2 stars", "_row": 3}
data.columns: {"text": "review", "label": "stars"}
encoded: {"input_ids": [101, 4621, …, 102], "token_type_ids": [0, 0, …, 0], "labels": 1}
several labels: {…, "labels": [0, 1, 1]}    a number: {…, "labels": 0.75}
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import datasets
import numpy as np
import torch
from sklearn.metrics import precision_recall_fscore_support
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from app.specs import JobSpec
from app.specs.tasks.text_classification import TextClassification
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.classification import CLASSES
from worker.training.evaluation.metrics.regression import NUMBERS
from worker.training.inputs.table import Row
from worker.training.loop.class_weights import class_weights
from worker.training.loop.losses import CrossEntropy
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

PROBLEM_TYPES = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}
"""What transformers calls the problems."""


class TextClassificationTask(Task):
    """A sequence-classification head over the encoder, with a loss for each problem."""

    metrics: ClassVar[Metrics] = {**CLASSES, **NUMBERS}
    pipeline: ClassVar[str] = "text-classification"
    model_class: ClassVar[Any] = AutoModelForSequenceClassification
    peft_type: ClassVar[str | None] = "SEQ_CLS"

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained encoder with a new head of `len(labels)` classes, or of one number."""
        problem = {"problem_type": PROBLEM_TYPES[_problem(spec)]}
        named = {
            "id2label": dict(enumerate(labels)),
            "label2id": {name: number for number, name in enumerate(labels)},
        }
        head = {"num_labels": len(labels) or 1, **problem, **(named if labels else {})}
        return build(AutoModelForSequenceClassification, folder, spec, head, **kind)

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A classifier that was saved before."""
        return load(AutoModelForSequenceClassification, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """`input_ids` (and what else the model takes, less the all-ones mask), `labels`, and `truncated`."""
        columns, truncation = spec.columns, spec.tokenization.truncation
        texts = [row[columns["text"]] for row in rows]
        pairs = [row[columns["text_pair"]] for row in rows] if "text_pair" in columns else None
        encoded = tokenizer(
            texts, pairs, truncation=truncation, max_length=max_length if truncation else None, verbose=False
        )
        if not truncation:
            check_lengths(rows, encoded["input_ids"], max_length, columns["text"])
        features = {name: values for name, values in encoded.items() if name != "attention_mask"}
        return {
            **features,
            "labels": _targets(spec, [row[columns["label"]] for row in rows], labels),
            "truncated": [bool(encoding.overflowing) for encoding in encoded.encodings or ()] or [False] * len(rows),
        }

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """Pad to the longest row of the batch, or to `max_length`."""
        pad = DataCollatorWithPadding(tokenizer, padding=spec.tokenization.padding, max_length=max_length)

        def collate(rows: list[Features]) -> Batch:
            inputs = dict(pad(rows))
            targets = {"labels": inputs.pop("labels")}
            return Batch(inputs, targets, num_items=len(rows))

        return collate

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """Cross entropy with the spec's class weights and label smoothing; binary for several labels; or squares."""
        loss = _loss(spec, labels, train)

        def step(model: Any, batch: Batch) -> StepResult:
            outputs = model(**batch.inputs)
            return StepResult(loss(outputs["logits"], batch.targets["labels"]), batch.num_items, outputs)

        return step

    def soft_targets(self, spec: JobSpec, labels: list[str], targets: Sequence[int]) -> list[list[float]]:
        """The same loss for engines without PyTorch, classes by classes.

        A row of class `y` loses `-sum(soft_targets[y][c] * log_probability[c])` over the classes `c`.
        """
        found = class_weights(spec, labels, targets)
        weights = np.ones(len(labels)) if found is None else found.double().numpy()
        smoothing = spec.training.label_smoothing
        mixed = (1 - smoothing) * np.diag(weights) + smoothing / len(labels) * weights
        return cast("list[list[float]]", mixed.tolist())

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """The logits of each row (classes, float32)."""
        return list(done.outputs["logits"].float().cpu().numpy())

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """Class ids, rows of 0 and 1, or numbers."""
        logits, references = np.stack(answers), cast("Any", split.encoded.data).column("labels").to_pylist()
        match _problem(split.spec):
            case "single-label":
                return EvalPrediction(logits.argmax(axis=-1).tolist(), references)
            case "multi-label":
                return EvalPrediction((logits > 0).astype(int).tolist(), references)
            case "regression":
                return EvalPrediction(logits[:, 0].astype(float).tolist(), references)

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place, texts, what was true and what was predicted, and the probability of what was predicted."""
        columns, labels, problem = split.spec.columns, split.labels, _problem(split.spec)
        for row, logits, predicted in zip(split.rows, answers, evaluated.predictions, strict=True):
            texts = {role: row[columns[role]] for role in ("text", "text_pair") if role in columns}
            yield {
                **place_of(row),
                **texts,
                "label": row[columns["label"]],
                **_described(problem, logits, predicted, labels),
            }

    def chance(self, split: Split, evaluated: EvalPrediction) -> dict[str, float]:
        """Of one label, the share of the majority class; of a number, R² of its mean."""
        match _problem(split.spec):
            case "single-label":
                return {"accuracy": max(Counter(evaluated.references).values()) / len(evaluated.references)}
            case "multi-label":
                return {}
            case "regression":
                return {"r2": 0.0}

    def report(self, split: Split, evaluated: EvalPrediction) -> dict[str, dict[str, float]] | None:
        """Precision, recall, F1 and rows for each class."""
        if not split.labels:
            return None
        measured = precision_recall_fscore_support(
            np.asarray(evaluated.references),
            np.asarray(evaluated.predictions),
            labels=list(range(len(split.labels))),
            zero_division=cast("Any", 0),
        )
        precision, recall, f1, rows = (cast("Sequence[Any]", values) for values in measured)
        return {
            name: {
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "rows": int(rows[number]),
            }
            for number, name in enumerate(split.labels)
        }

    def use(self, spec: JobSpec) -> str:
        """The pipeline; several labels come with all their scores."""
        sample = '{"text": "…", "text_pair": "…"}' if "text_pair" in spec.columns else '"…"'
        more = ", top_k=None" if _problem(spec) == "multi-label" else ""
        return (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model="FOLDER"{more})\nprint(classify({sample}))'
        )


def _problem(spec: JobSpec) -> Literal["single-label", "multi-label", "regression"]:
    return cast("TextClassification", spec.task).problem


def _targets(spec: JobSpec, cells: list[Any], labels: list[str]) -> list[Any]:
    ids = {name: number for number, name in enumerate(labels)}
    match _problem(spec):
        case "single-label":
            return [ids[cell] for cell in cells]
        case "multi-label":
            return [[int(name in cell) for name in labels] for cell in map(set, cells)]
        case "regression":
            return cells


def _described(problem: str, logits: Any, predicted: Any, labels: list[str]) -> dict[str, Any]:
    if problem == "regression":
        return {"predicted": round(predicted, 6)}
    if problem == "single-label":
        return {"predicted": labels[predicted], "score": round(float(_softmax(logits)[predicted]), 6)}
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    chosen = [number for number, is_chosen in enumerate(predicted) if is_chosen]
    return {
        "predicted": [labels[number] for number in chosen],
        "scores": {labels[number]: round(float(score), 6) for number, score in enumerate(scores)},
    }


def _loss(
    spec: JobSpec, labels: list[str], train: datasets.Dataset
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    match _problem(spec):
        case "single-label":
            targets = cast("Any", train.data).column("labels").to_pylist()
            weight = class_weights(spec, labels, targets)
            return CrossEntropy(label_smoothing=spec.training.label_smoothing, weight=weight)
        case "multi-label":
            return _binary_cross_entropy
        case "regression":
            return _squares


def _binary_cross_entropy(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), classes.float(), reduction="none")
    return each.mean(dim=-1).sum()


def _squares(logits: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.mse_loss(logits.float()[:, 0], numbers.float(), reduction="sum")


def _softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


TASK = TextClassificationTask()
