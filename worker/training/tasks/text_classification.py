"""One label for each text, or for each pair of texts.

{"review": "Effective but too tepid biopic", "stars": "2 stars", "_row": 3}
data.columns: {"text": "review", "label": "stars"}
encoded: {"input_ids": [101, 4621, …, 102], "token_type_ids": [0, 0, …, 0], "labels": 1}
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.metrics import precision_recall_fscore_support
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from app.specs import JobSpec
from app.specs.labels import class_name, ordered
from app.specs.rows import RowProblem, class_problem, text_classification_problems
from worker.training.errors import ClassUnknown, RowTooLong, SingleClass, TooManyClasses, nearest
from worker.training.models import build, load
from worker.training.table import LINE, ROW, Row, Table
from worker.training.tasks.protocol import Collate, Loss


class TextClassificationTask:
    """Single-label classification with a sequence-classification head."""

    def read_targets(self, spec: JobSpec, table: Table) -> Table:
        """Write labels as class names; cells that hold none become None."""
        column, labels = spec.columns["label"], spec.task.labels
        names = table.class_names.get(column)
        if names and labels and not set(names) <= set(labels):
            # The spec renames a hub dataset's classes: its ids count into the spec's list.
            names = labels
        known: dict[Any, str | None] = {}
        cells: list[str | None] = []
        for cell in table.cells(column):
            # One text object a class, however many rows; 1, 1.0 and True are equal, so the type is part of the key.
            key = (type(cell), repr(cell))
            if key not in known:
                known[key] = _class_of(cell, names, labels)
            cells.append(known[key])
        return table.replaced(column, cells)

    def learn_labels(self, spec: JobSpec, train: Table) -> list[str]:
        """The spec's labels, else a hub dataset's own, else those that occur in train."""
        column = spec.columns["label"]
        if spec.task.labels:
            return list(spec.task.labels)
        if named := train.class_names.get(column):
            return list(named)
        return ordered(name for name in train.cells(column) if name is not None)

    def strata(self, spec: JobSpec, table: Table) -> list[str] | None:
        """The labels themselves."""
        return [str(name) for name in table.cells(spec.columns["label"])]

    def problems(self, split: str, rows: list[Row], spec: JobSpec, labels: list[str]) -> Iterator[RowProblem]:
        """Rows without text or with a label that is no class."""
        return text_classification_problems(split, rows, spec.columns, labels)

    def check_targets(self, spec: JobSpec, labels: list[str], train: Table) -> None:
        """Raises SingleClass or TooManyClasses."""
        present = set(train.cells(spec.columns["label"]))
        message = class_problem(present) or class_problem(labels)
        if message:
            raise (SingleClass if len(present) <= 1 else TooManyClasses)(f"train: {message}")

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str]) -> tuple[Any, tuple[str, ...]]:
        """The pretrained encoder with a new head of `len(labels)` classes."""
        return build(
            AutoModelForSequenceClassification,
            folder,
            spec,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={name: number for number, name in enumerate(labels)},
            problem_type="single_label_classification",
        )

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A classifier that was saved before."""
        return load(AutoModelForSequenceClassification, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int
    ) -> dict[str, list[Any]]:
        """`input_ids` (and what else the model takes, less the all-ones mask), `labels`, and `cut`."""
        columns, split = spec.columns, spec.tokenization.truncation
        texts = [row[columns["text"]] for row in rows]
        pairs = [row[columns["text_pair"]] for row in rows] if "text_pair" in columns else None
        encoded = tokenizer(texts, pairs, truncation=split, max_length=max_length if split else None, verbose=False)
        if not split:
            _check_lengths(rows, encoded["input_ids"], max_length, columns["text"])
        ids = {name: number for number, name in enumerate(labels)}
        features = {name: values for name, values in encoded.items() if name != "attention_mask"}
        return {
            **features,
            "labels": [ids[row[columns["label"]]] for row in rows],
            "cut": [bool(encoding.overflowing) for encoding in encoded.encodings or ()] or [False] * len(rows),
        }

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """Pad to the longest row of the batch, or to `max_length`."""
        return cast(
            "Collate", DataCollatorWithPadding(tokenizer, padding=spec.tokenization.padding, max_length=max_length)
        )

    def loss(self, spec: JobSpec, labels: list[str], targets: Sequence[int]) -> Loss:
        """Cross entropy with the spec's class weights and label smoothing."""
        weights = _class_weights(spec, labels, targets)
        smoothing = spec.training.label_smoothing

        def cross_entropy(outputs: Any, classes: torch.Tensor, count: Any) -> torch.Tensor:
            logits = outputs["logits"].float()
            weight = None if weights is None else weights.to(logits.device)
            total = torch.nn.functional.cross_entropy(
                logits, classes, weight=weight, label_smoothing=smoothing, reduction="sum"
            )
            return total / (len(classes) if count is None else count)

        return cross_entropy

    def soft_targets(self, spec: JobSpec, labels: list[str], targets: Sequence[int]) -> list[list[float]]:
        """The same loss for engines without PyTorch, classes by classes.

        A row of class `y` loses `-sum(soft_targets[y][c] * log_probability[c])` over the classes `c`.
        """
        found = _class_weights(spec, labels, targets)
        weights = np.ones(len(labels)) if found is None else found.double().numpy()
        smoothing = spec.training.label_smoothing
        mixed = (1 - smoothing) * np.diag(weights) + smoothing / len(labels) * weights
        return cast("list[list[float]]", mixed.tolist())

    def predict(self, logits: np.ndarray[Any, Any]) -> list[int]:
        """The class of the highest logit."""
        return [int(best) for best in logits.argmax(axis=-1)]

    def describe(self, rows: list[Row], spec: JobSpec, labels: list[str], logits: Any) -> Iterator[dict[str, Any]]:
        """Row, line, texts, true and predicted label, and the probability of the predicted one."""
        columns = spec.columns
        for row, scores in zip(rows, _softmax(logits), strict=True):
            best = int(scores.argmax())
            place = {"row": row[ROW], **({"line": row[LINE]} if LINE in row else {})}
            texts = {role: row[columns[role]] for role in ("text", "text_pair") if role in columns}
            yield {
                **place,
                **texts,
                "label": row[columns["label"]],
                "predicted": labels[best],
                "score": round(float(scores[best]), 6),
            }

    def report(self, labels: list[str], predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        """Precision, recall, F1 and rows for each class."""
        measured = precision_recall_fscore_support(
            references, predictions, labels=list(range(len(labels))), zero_division=cast("Any", 0)
        )
        precision, recall, f1, rows = (cast("Sequence[Any]", values) for values in measured)
        return {
            name: {
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "rows": int(rows[number]),
            }
            for number, name in enumerate(labels)
        }


def _class_of(cell: Any, names: list[str] | None, labels: list[str] | None) -> str | None:
    # `names` are a hub dataset's classes, where -1 means no label; `labels` are the spec's.
    if names is not None and isinstance(cell, int):
        return names[cell] if 0 <= cell < len(names) else None
    return class_name(cell, labels)


def _check_lengths(rows: list[Row], tokens: list[list[int]], max_length: int, column: str) -> None:
    for row, ids in zip(rows, tokens, strict=True):
        if len(ids) > max_length:
            line = f" (line {row[LINE]} of the file)" if row.get(LINE) is not None else ""
            details = {"row": row[ROW], "line": row.get(LINE), "column": column}
            message = f"row {row[ROW]}{line} has {len(ids)} tokens, more than max_length {max_length}"
            raise RowTooLong(message, details=details)


def _class_weights(spec: JobSpec, labels: list[str], targets: Sequence[int]) -> torch.Tensor | None:
    asked = spec.training.class_weights
    if asked is None:
        return None
    counts = np.bincount(np.asarray(targets, dtype=np.int64), minlength=len(labels))
    if asked == "balanced":
        weights = np.ones(len(labels))
        seen = counts > 0
        weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    else:
        weights = _named_weights(asked, labels)
    # Scaled so that the mean weight over train is 1: the loss stays comparable, and so does the learning rate.
    return torch.tensor(weights * counts.sum() / (weights @ counts), dtype=torch.float32)


def _named_weights(asked: dict[str, float], labels: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    for name, weight in asked.items():
        if name not in labels:
            raise ClassUnknown(
                f"training.class_weights names '{name}', which is no class; classes are: "
                f"{', '.join(labels[:20])}.{nearest(name, labels)}"
            )
        if not 0 < weight < float("inf"):
            raise ClassUnknown(
                f"training.class_weights: the weight of '{name}' is {weight}", "Give a weight greater than 0."
            )
    return np.array([asked.get(name, 1.0) for name in labels])


def _softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
