"""One tag for each word: names of people and places, parts of speech.

{"tokens": ["Ada", "Lovelace", "rests"], "tags": ["B-PER", "I-PER", "O"], "_row": 3}
data.columns: {"tokens": "tokens", "tags": "tags"}
encoded: {"input_ids": [101, 9450, 15761, 2361, 26315, 102], "labels": [-100, 1, 2, -100, 0, -100], "_words": [0, 1, 2]}

The words go to the tokenizer as one text with a space between them, as a pipeline will later be given them, and not one
by one: byte-level tokenizers such as RoBERTa's would write each word without the space that they know it by. A word's tag
is learned and read at its first piece; `_words` are the words that have one.
"""

from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from app.specs import JobSpec
from app.specs.tasks.token_classification import TokenClassification, words
from worker.training.errors import ModelRefused, NoRows
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.tagging import TAGS, UNPREDICTED, per_class
from worker.training.inputs.table import Row
from worker.training.loop.class_weights import class_weights
from worker.training.loop.losses import IGNORE_INDEX, CrossEntropy
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


class TokenClassificationTask(Task):
    """A head over each token, of which the first of each word counts."""

    metrics: ClassVar[Metrics] = TAGS
    pipeline: ClassVar[str] = "token-classification"
    model_class: ClassVar[Any] = AutoModelForTokenClassification
    peft_type: ClassVar[str | None] = "TOKEN_CLS"

    def check(self, spec: JobSpec, tokenizer: Any, config: Any) -> None:
        """Words must be found again among the tokens. Raises ModelRefused."""
        if not tokenizer.is_fast:
            raise ModelRefused(
                f"its tokenizer {type(tokenizer).__name__} does not say which word a token belongs to",
                "Use a model whose tokenizer is a fast one: its folder has a tokenizer.json.",
            )

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained model with a new head of `len(labels)` tags."""
        head = {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {name: number for number, name in enumerate(labels)},
        }
        return build(AutoModelForTokenClassification, folder, spec, head, **kind)

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A tagger that was saved before."""
        return load(AutoModelForTokenClassification, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """`input_ids` and what else the model takes, `labels` at the first piece of each word, `_words`, and `truncated`."""
        columns, truncation = spec.columns, spec.tokenization.truncation
        sentences = [_words(row, columns) for row in rows]
        encoded = tokenizer(
            [" ".join(sentence) for sentence in sentences],
            truncation=truncation,
            max_length=max_length if truncation else None,
            return_offsets_mapping=True,
            verbose=False,
        )
        if not truncation:
            check_lengths(rows, encoded["input_ids"], max_length, columns["tokens"])
        ids = {name: number for number, name in enumerate(labels)}
        targets: list[Any] = []
        found: list[Any] = []
        for row, sentence, offsets in zip(rows, sentences, encoded["offset_mapping"], strict=True):
            numbers, places = _first_pieces(sentence, np.reshape(offsets, (-1, 2)))
            tags = np.array([ids[tag] for tag in words(row[columns["tags"]]) or ()])
            target = np.full(len(offsets), IGNORE_INDEX)
            target[places] = tags[numbers]
            targets.append(target)
            found.append(numbers)
        features = {
            name: values for name, values in encoded.items() if name not in ("attention_mask", "offset_mapping")
        }
        truncated = [bool(encoding.overflowing) for encoding in encoded.encodings]
        return {**features, "labels": targets, "_words": found, "truncated": truncated}

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """Pad to the longest row of the batch, or to `max_length`."""
        pad = DataCollatorForTokenClassification(tokenizer, padding=spec.tokenization.padding, max_length=max_length)

        def collate(rows: list[Features]) -> Batch:
            inputs = dict(pad(rows))
            tags = inputs.pop("labels")
            return Batch(inputs, {"tags": tags}, num_items=int((tags != IGNORE_INDEX).sum()))

        return collate

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """Cross entropy over words, with the spec's class weights and label smoothing. Raises NoRows too."""
        weight = class_weights(spec, labels, _targets(train))
        loss = CrossEntropy(label_smoothing=spec.training.label_smoothing, weight=weight)

        def step(model: Any, batch: Batch) -> StepResult:
            outputs = model(**batch.inputs)
            return StepResult(loss(outputs["logits"], batch.targets["tags"]), batch.num_items, outputs)

        return step

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """The predicted tag ids of the words of each row that have a piece."""
        is_word = done.batch.targets["tags"] != IGNORE_INDEX
        chosen = done.outputs["logits"].argmax(dim=-1)[is_word].to(torch.int16).cpu().numpy()
        ends = is_word.sum(dim=-1).cumsum(dim=0).cpu().numpy()
        return np.split(chosen, ends[:-1])

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """Rows of tags, or ids of words without a scheme. A word without a piece is "O", or of no class at all."""
        columns, is_bio = split.spec.columns, _scheme(split.spec) == "BIO"
        names: list[Any] = list(split.labels if is_bio else range(len(split.labels)))
        ids = dict(zip(split.labels, names, strict=True))
        predictions: list[Any] = []
        references: list[Any] = []
        found = cast("Any", split.encoded.data).column("_words").to_pylist()
        for row, numbers, chosen in zip(split.rows, found, answers, strict=True):
            true = [ids[tag] for tag in words(row[columns["tags"]]) or ()]
            predicted: list[Any] = ["O" if is_bio else UNPREDICTED] * len(true)
            for number, tag in zip(numbers, chosen.tolist(), strict=True):
                predicted[number] = names[tag]
            (predictions.append if is_bio else predictions.extend)(predicted)
            (references.append if is_bio else references.extend)(true)
        return EvalPrediction(predictions, references)

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place, words, what was true and what was predicted; without a scheme, null for a word without a piece."""
        columns, is_bio = split.spec.columns, _scheme(split.spec) == "BIO"
        # Without a scheme the ids of all words are in one list; -1 is the place of the null.
        names, predictions = [*split.labels, None], iter(evaluated.predictions)
        for row in split.rows:
            tokens = _words(row, columns)
            predicted = next(predictions) if is_bio else [names[tag] for tag in islice(predictions, len(tokens))]
            yield {**place_of(row), "tokens": tokens, "tags": row[columns["tags"]], "predicted": predicted}

    def report(self, split: Split, evaluated: EvalPrediction) -> dict[str, dict[str, float]] | None:
        """Precision, recall, F1 and how many, for each name of an entity, or for each tag."""
        return per_class(evaluated.predictions, evaluated.references, split.labels)

    def use(self, spec: JobSpec) -> str:
        """The pipeline, which reads a word's tag at its first piece as well."""
        return (
            "from transformers import pipeline\n\n"
            'tag = pipeline("token-classification", model="FOLDER", aggregation_strategy="first")\nprint(tag("…"))'
        )


def _scheme(spec: JobSpec) -> str:
    return cast("TokenClassification", spec.task).scheme


def _words(row: Row, columns: dict[str, str]) -> list[str]:
    return words(row[columns["tokens"]]) or []


def _first_pieces(sentence: list[str], offsets: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    # The numbers of the words that have a piece, and the place of each one's first. Offsets may take in the space before.
    lengths = np.array([len(word) for word in sentence])
    ends = np.array(list(accumulate(len(word) + 1 for word in sentence))) - 1
    starts, tokens = ends - lengths, np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    numbers = np.searchsorted(ends, offsets[tokens, 0], side="right")
    is_in = (numbers < len(ends)) & (starts[np.minimum(numbers, len(ends) - 1)] < offsets[tokens, 1])
    first, at = np.unique(numbers[is_in], return_index=True)
    return first, tokens[is_in][at]


def _targets(train: datasets.Dataset) -> Any:
    flat = cast("Any", pc).list_flatten(cast("Any", train.data).column("labels")).to_numpy()
    learned = flat[flat != IGNORE_INDEX]
    if not len(learned):
        raise NoRows(
            "train: the tokens have no word to learn from",
            "Raise tokenization.max_length, or use a model whose tokenizer knows the script of the texts.",
        )
    return learned


TASK = TokenClassificationTask()
