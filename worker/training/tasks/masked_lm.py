"""An encoder guesses hidden words, to become at home in the texts of a field.

{"text": "The patient was given 5 mg of warfarin daily.", "_row": 3}
data.columns: {"text": "text"}
encoded, train: {"input_ids": [101, 1109, 5351, …, 102], "_place": 2}    tokens are masked when batches are made, differently in each epoch
encoded, eval: {"input_ids": [101, 1109, 103, …, 102], "labels": [-100, -100, 5351, …, -100], "_place": 2}    once and for all
"""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from app.specs import JobSpec
from app.specs.tasks.masked_lm import MaskedLM
from app.specs.training import LoraMethod
from worker.training.errors import ModelConfigInvalid, ModelRefused
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.tokens import TOKENS, token_answers
from worker.training.inputs.table import Row
from worker.training.loop.losses import IGNORE_INDEX, CrossEntropy
from worker.training.models.pretrained import build, load
from worker.training.tasks.protocol import (
    PLACE,
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

MASKED, REPLACED = 0.8, 0.1
"""Of the hidden tokens, the shares that become the mask, and any other token; the rest stay (Devlin et al., 2019)."""
MULTIPLE = 8
"""Batches are padded to a multiple of so many tokens, which GPUs compute faster."""

Ids = np.ndarray[Any, np.dtype[np.int64]]


class MaskedLMTask(Task):
    """The language-modelling head of an encoder, over the tokens that were hidden."""

    metrics: ClassVar[Metrics] = TOKENS
    pipeline: ClassVar[str] = "fill-mask"
    model_class: ClassVar[Any] = AutoModelForMaskedLM
    peft_type: ClassVar[str | None] = None

    def check(self, spec: JobSpec, tokenizer: Any, config: Any) -> None:
        """Raises ModelRefused for a tokenizer without a mask, ModelConfigInvalid for sequences without room for text."""
        if not tokenizer.is_fast:
            raise ModelRefused("its tokenizer cannot divide long texts (it is no fast tokenizer)")
        if tokenizer.mask_token is None:
            raise ModelRefused(
                "its tokenizer has no mask token",
                "Use an encoder such as BERT; text generators learn from plain texts by the task causal-lm.",
            )
        if spec.tokenization.max_length <= (special := tokenizer.num_special_tokens_to_add()):
            raise ModelConfigInvalid(
                f"tokenization.max_length is {spec.tokenization.max_length}, and a sequence has {special} special tokens",
                f"Set tokenization.max_length to {special + 1} or more.",
            )

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained encoder and its head, which is randomly initialized if the weights have none. Raises ModelRefused with LoRA then."""
        model, new = build(AutoModelForMaskedLM, folder, spec, {}, **kind)
        if new and isinstance(spec.training.method, LoraMethod):
            # It shares weights with the embeddings, so it can be saved neither with them nor without them.
            raise ModelRefused(
                f"the model's weights have no head that guesses words, and {spec.training.method.type} cannot tune a new one",
                'Use training.method "full" or "freeze", or a model that was trained to guess words.',
            )
        return model, new

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A model that was saved before."""
        return load(AutoModelForMaskedLM, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """`input_ids` and `_place`; for an evaluation, with masked tokens and their `labels`.

        A long text becomes several sequences, so nothing of it is truncated; without truncation it is refused.
        """
        column, divides = spec.columns["text"], spec.tokenization.truncation
        encoded = tokenizer(
            [row[column] for row in rows],
            truncation=divides,
            max_length=max_length if divides else None,
            return_overflowing_tokens=True,
            verbose=False,
        )
        ids = cast("list[list[int]]", encoded["input_ids"])
        if not divides:
            check_lengths(rows, ids, max_length, column)
        features = {PLACE: encoded["overflow_to_sample_mapping"], "truncated": [False] * len(rows)}
        if split == "train":
            return {"input_ids": ids, **features}
        mask = Mask(tokenizer, _spec(spec).mask_probability)
        hidden = [mask.hide(own, _draws(own), always=True) for own in map(_array, ids)]
        return {"input_ids": [own for own, _ in hidden], "labels": [wanted for _, wanted in hidden], **features}

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """Pad on the right, and hide tokens of rows that have none hidden yet."""
        return Hiding(tokenizer, spec, max_length)

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """Cross entropy over the hidden tokens, with the spec's label smoothing."""
        loss = CrossEntropy(label_smoothing=spec.training.label_smoothing)

        def step(model: Any, batch: Batch) -> StepResult:
            outputs = model(**batch.inputs)
            return StepResult(loss(outputs["logits"], batch.targets["labels"]), batch.num_items, outputs)

        return step

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """Loss, right guesses and count of the hidden tokens of each sequence, and the guesses themselves."""
        logits, labels = done.outputs["logits"], done.batch.targets["labels"]
        hidden = labels != IGNORE_INDEX
        guesses = logits[hidden].argmax(dim=-1).cpu().split(hidden.sum(dim=-1).tolist())
        losses = token_answers(logits, labels)
        return [(*numbers, guessed.tolist()) for numbers, guessed in zip(losses, guesses, strict=True)]

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """Losses and right guesses of each row, over all its sequences; the references are how many tokens they are of."""
        losses, correct, counts = ([0] * len(split.rows) for _ in range(3))
        for place, (loss, right, count, _) in zip(_column(split, PLACE), answers, strict=True):
            losses[place] += loss
            correct[place] += right
            counts[place] += count
        guesses = [{"loss": loss, "correct": right} for loss, right in zip(losses, correct, strict=True)]
        return EvalPrediction(guesses, counts)

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place and text, the tokens that were hidden and those guessed for them, the mean loss, the share that was right."""
        hidden: list[list[int]] = [[] for _ in range(len(split.rows))]
        guessed: list[list[int]] = [[] for _ in range(len(split.rows))]
        for place, labels, (*_, own) in zip(_column(split, PLACE), _column(split, "labels"), answers, strict=True):
            hidden[place] += [label for label in labels if label != IGNORE_INDEX]
            guessed[place] += own
        each = zip(split.rows, hidden, guessed, evaluated.predictions, evaluated.references, strict=True)
        for row, wanted, found, guesses, count in each:
            yield {
                **place_of(row),
                "text": row[split.spec.columns["text"]],
                "hidden": split.tokenizer.convert_ids_to_tokens(wanted),
                "predicted": split.tokenizer.convert_ids_to_tokens(found),
                "loss": round(guesses["loss"] / max(1, count), 6),
                "token_accuracy": round(guesses["correct"] / max(1, count), 6),
            }

    def use(self, spec: JobSpec) -> str:
        """The pipeline, with the mask of the model's own tokenizer."""
        return (
            "from transformers import pipeline\n\n"
            'guess = pipeline("fill-mask", model="FOLDER")\n'
            'print(guess(f"… {guess.tokenizer.mask_token} …"))'
        )


class Mask:
    """Hides tokens, never special ones."""

    def __init__(self, tokenizer: Any, probability: float) -> None:
        special = np.array(tokenizer.all_special_ids, dtype=np.int64)
        self._mask, self._probability = tokenizer.mask_token_id, probability
        self._is_special = np.zeros(len(tokenizer), dtype=bool)
        self._is_special[special[special < len(tokenizer)]] = True
        self._others = np.flatnonzero(~self._is_special)

    def hide(self, ids: Ids, draws: np.random.Generator, *, always: bool = False) -> tuple[Ids, Ids]:
        """What the model sees, and what it shall guess. With `always` at least one token is hidden where any can be."""
        free = np.flatnonzero(~self._is_special[ids])
        chances, lots = draws.random(len(free)), draws.random(len(free))
        others = self._others[draws.integers(len(self._others), size=len(free))]
        hidden = chances < self._probability
        if always and len(free) and not hidden.any():
            hidden[chances.argmin()] = True
        places, lot = free[hidden], lots[hidden]
        seen, wanted = ids.copy(), np.full_like(ids, IGNORE_INDEX)
        wanted[places] = ids[places]
        seen[places] = np.select(
            [lot < MASKED, lot < MASKED + REPLACED], [np.full_like(places, self._mask), others[hidden]], ids[places]
        )
        return seen, wanted


class Hiding:
    """Makes batches; of rows for training it hides other tokens in each epoch, the same ones in every attempt."""

    def __init__(self, tokenizer: Any, spec: JobSpec, max_length: int) -> None:
        self._mask = Mask(tokenizer, _spec(spec).mask_probability)
        self._pad, self._seed, self._epoch = tokenizer.pad_token_id, spec.training.seed, 0
        self._max_length, self._always = max_length, spec.tokenization.padding == "max_length"

    def set_epoch(self, epoch: int) -> None:
        """From here on batches are of this epoch."""
        self._epoch = epoch

    def __call__(self, rows: list[Features]) -> Batch:
        """Tensors of one batch."""
        pairs = [self._pair(row) for row in rows]
        longest = max(len(ids) for ids, _ in pairs)
        width = self._max_length if self._always else min(-(-longest // MULTIPLE) * MULTIPLE, self._max_length)
        shape = (len(rows), width)
        ids, mask, labels = np.full(shape, self._pad), np.zeros(shape, np.int64), np.full(shape, IGNORE_INDEX)
        for number, (own, wanted) in enumerate(pairs):
            ids[number, : len(own)], labels[number, : len(own)], mask[number, : len(own)] = own, wanted, 1
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return Batch(inputs, {"labels": torch.from_numpy(labels)}, num_items=int((labels != IGNORE_INDEX).sum()))

    def _pair(self, row: Features) -> tuple[Ids, Ids]:
        ids = _array(row["input_ids"])
        if "labels" in row:
            return ids, _array(row["labels"])
        return self._mask.hide(ids, _draws(ids, self._seed, self._epoch))


def _spec(spec: JobSpec) -> MaskedLM:
    return cast("MaskedLM", spec.task)


def _array(ids: list[int]) -> Ids:
    return np.array(ids, dtype=np.int64)


def _draws(ids: Ids, *more: int) -> np.random.Generator:
    # From the text itself, so that it depends neither on the place of the row, nor on its batch, nor on earlier calls.
    text = int.from_bytes(blake2b(ids.tobytes(), digest_size=8).digest())
    return np.random.default_rng([text, *more])


def _column(split: Split, name: str) -> list[Any]:
    return cast("Any", split.encoded.data).column(name).to_pylist()


TASK = MaskedLMTask()
