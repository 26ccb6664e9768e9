"""The answer to a question as a span of a given context.

{"question": "Where is the key?", "context": "The key is under the mat.", "answers": {"text": ["under the mat"], "answer_start": [11]}}
data.columns: {"question": "question", "context": "context", "answers": "answers"}
encoded: {"input_ids": [101, 2073, …, 102, 1996, 3145, …, 102], "labels": [10, 12], "_place": 0,
          "_null": 0, "_context": 7, "_offsets": [0, 3, 4, 7, …]}

A context too long for one sequence is read through several windows, which overlap by `task.stride` tokens: each is an
encoded row of its own (`worker/training/tokens/windows.py`). One that does not hold the answer whole points at the `_null` place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering

from app.specs import JobSpec
from app.specs.tasks.question_answering import QuestionAnswering
from worker.training.errors import ModelConfigInvalid, ModelRefused
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.spans import SPANS, scores
from worker.training.inputs.table import Row
from worker.training.loop.losses import CrossEntropy
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
from worker.training.tokens.truncation import place_of
from worker.training.tokens.windows import answers_of, windows

N_BEST = 5
"""The number of spans kept of each window and reported of each row."""
LEAST_ROOM = 8
"""Tokens that a sequence must have for question and context."""


@dataclass(frozen=True)
class Found:
    """What a model says of one row, or of one window of it."""

    null: float
    """The score of there being no answer."""
    spans: list[tuple[float, int, int]]
    """The best spans, best first: score, and the characters of the context from and to which they go."""


class QuestionAnsweringTask(Task):
    """A head that scores each token as the first and as the last of the answer."""

    metrics: ClassVar[Metrics] = SPANS
    pipeline: ClassVar[str] = "question-answering"
    model_class: ClassVar[Any] = AutoModelForQuestionAnswering
    # peft's own class for it (0.21.2) accepts `token_type_ids` but does not pass them to the model.
    peft_type: ClassVar[str | None] = None
    trained_heads: ClassVar[tuple[str, ...]] = ("qa_outputs",)

    def check(self, spec: JobSpec, tokenizer: Any, config: Any) -> None:
        """Tokens must be found again in the text, and have room. Raises ModelRefused or ModelConfigInvalid."""
        if not tokenizer.is_fast:
            raise ModelRefused(
                f"its tokenizer {type(tokenizer).__name__} does not give the place of a token in the text",
                "Use a model whose tokenizer is a fast one: its folder has a tokenizer.json.",
            )
        least = LEAST_ROOM + tokenizer.num_special_tokens_to_add(pair=True)
        if spec.tokenization.max_length < least:
            raise ModelConfigInvalid(
                f"tokenization.max_length is {spec.tokenization.max_length}: question and context have no room",
                f"Raise tokenization.max_length to {least} at least.",
            )

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained model with a head of two scores a token."""
        return build(AutoModelForQuestionAnswering, folder, spec, {"num_labels": 2}, **kind)

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A model that was saved before."""
        return load(AutoModelForQuestionAnswering, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """One sequence a window, in the order of the rows, and `truncated`, which marks the rows whose question was."""
        made, truncated = windows(rows, tokenizer, spec, max_length)
        # Only an evaluation looks for the text again.
        names = [name for name in made[0] if split != "train" or not name.startswith("_")]
        return {name: [window[name] for window in made] for name in names} | {"truncated": truncated}

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """Pad to the longest window of the batch, or to `max_length`; always on the right, so that places stay."""

        def pad(features: list[Features]) -> Batch:
            inputs = [{name: value for name, value in one.items() if name != "labels"} for one in features]
            padded = tokenizer.pad(
                inputs,
                padding=spec.tokenization.padding,
                max_length=max_length,
                padding_side="right",
                return_tensors="pt",
                verbose=False,
            )
            places = torch.tensor([one["labels"] for one in features])
            return Batch(dict(padded), {"places": places}, num_items=len(features))

        return pad

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """Cross entropy over the places of a window: the mean of the losses of the first and of the last token."""
        loss = CrossEntropy(label_smoothing=spec.training.label_smoothing)

        def step(model: Any, batch: Batch) -> StepResult:
            outputs, places = model(**batch.inputs), batch.targets["places"]
            start, end = loss(outputs["start_logits"], places[:, 0]), loss(outputs["end_logits"], places[:, 1])
            return StepResult((start + end) / 2, batch.num_items, outputs)

        return step

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """What was found in each window."""
        starts, ends = (done.outputs[f"{side}_logits"].float() for side in ("start", "end"))
        nulls = torch.tensor([window["_null"] for window in done.features], device=starts.device)
        null = (starts + ends).gather(1, nulls[:, None])[:, 0].tolist()
        offsets = [np.reshape(np.array(window["_offsets"], dtype=int), (-1, 2)) for window in done.features]
        first = torch.tensor([window["_context"] for window in done.features], device=starts.device)[:, None]
        size = torch.tensor([len(of_context) for of_context in offsets], device=starts.device)[:, None]
        at = torch.arange(starts.shape[1], device=starts.device)
        is_context = (at >= first) & (at < first + size)
        starts, ends = (logits.masked_fill(~is_context, -torch.inf) for logits in (starts, ends))
        best = _best_spans(starts, ends, _task(spec).max_answer_length)
        places = first.flatten().tolist()
        return [
            Found(score, [(value, int(of[a - place, 0]), int(of[b - place, 1])) for value, a, b in found])
            for score, found, of, place in zip(null, best, offsets, places, strict=True)
        ]

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """The text that each row is answered with, "" for none; and all its right answers."""
        predictions: list[str] = []
        references: list[list[str]] = []
        for row, found in _joined(split, answers):
            predictions.append(_best_answer(row, found, split.spec)[0])
            references.append([answer.text for answer in answers_of(row, split.spec)])
        return EvalPrediction(predictions, references)

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place, texts, the references and the prediction, the best spans, and how far the best is above no answer."""
        columns = split.spec.columns
        for row, found in _joined(split, answers):
            text, start = _best_answer(row, found, split.spec)
            best = [(score, *_trimmed(row[columns["context"]], a, b)) for score, a, b in found.spans]
            yield {
                **place_of(row),
                "question": row[columns["question"]],
                "context": row[columns["context"]],
                "answers": [answer.text for answer in answers_of(row, split.spec)],
                "predicted": text,
                "start": start,
                "score": round(found.spans[0][0] - found.null, 6) if found.spans else None,
                "best": [{"text": span, "start": a, "score": round(score, 6)} for score, span, a in best],
            }

    def report(self, split: Split, evaluated: EvalPrediction) -> dict[str, dict[str, float]] | None:
        """F1, exact match and rows, apart for questions with and without an answer where there are both."""
        measured = {name: scores(name, evaluated.predictions, evaluated.references) for name in SPANS}
        kinds = {"with an answer": True, "without an answer": False}
        rows = {
            kind: [place for place, right in enumerate(evaluated.references) if bool(right) is answered]
            for kind, answered in kinds.items()
        }
        if not all(rows.values()):
            return None
        return {
            kind: {name: float(np.mean([values[place] for place in places])) for name, values in measured.items()}
            | {"rows": len(places)}
            for kind, places in rows.items()
        }

    def use(self, spec: JobSpec) -> str:
        """By hand: transformers has no such pipeline any more."""
        code = (
            "import torch\n"
            "from transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
            'model = AutoModelForQuestionAnswering.from_pretrained("FOLDER")\n'
            'question, context = "…", "…"\n\n'
            'inputs = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")\n'
            'offsets = inputs.pop("offset_mapping")[0]\n'
            "of_context = torch.tensor([part == 1 for part in inputs.sequence_ids()])\n"
            "with torch.no_grad():\n"
            "    outputs = model(**inputs)\n"
            "scores = outputs.start_logits[0][:, None] + outputs.end_logits[0]\n"
            f"allowed = (of_context[:, None] & of_context).triu().tril({_task(spec).max_answer_length - 1})\n"
            "best = int(scores.masked_fill(~allowed, -torch.inf).argmax())\n"
            "start, end = divmod(best, len(scores))\n"
        )
        found = "context[offsets[start][0] : offsets[end][1]].strip()"
        if not _task(spec).no_answer:
            return f"{code}print({found})"
        return (
            f"{code}none = int((inputs.input_ids[0] == (tokenizer.cls_token_id or -1)).int().argmax())\n"
            f'print({found} if scores[start, end] >= scores[none, none] else "no answer")'
        )


def _task(spec: JobSpec) -> QuestionAnswering:
    return cast("QuestionAnswering", spec.task)


def _best_spans(starts: torch.Tensor, ends: torch.Tensor, longest: int) -> list[list[tuple[float, int, int]]]:
    # For each first token the best last one, among as many as an answer may have: exact, and nothing is squared.
    reach = min(longest, ends.shape[1])
    padded = torch.nn.functional.pad(ends, (0, reach - 1), value=-torch.inf)[:, None]
    value, last = torch.nn.functional.max_pool1d(padded, reach, stride=1, return_indices=True)
    score, begin = (starts + value[:, 0]).topk(min(N_BEST, starts.shape[1]), dim=1)
    end = last[:, 0].gather(1, begin)
    return [
        [span for span in zip(*row, strict=True) if span[0] > -torch.inf]
        for row in zip(score.tolist(), begin.tolist(), end.tolist(), strict=True)
    ]


def _joined(split: Split, answers: list[Found]) -> Iterator[tuple[Row, Found]]:
    # The windows of a row side by side: its best spans, and no answer only where no window has one.
    places = cast("Any", split.encoded.data).column(PLACE).to_pylist()
    windows = groupby(zip(places, answers, strict=True), key=lambda pair: pair[0])
    for row, (_, found) in zip(split.rows, windows, strict=True):
        each = [one for _, one in found]
        best = dict[tuple[int, int], float]()
        for score, start, end in chain.from_iterable(one.spans for one in each):
            best[start, end] = max(score, best.get((start, end), score))
        ranked = sorted(((score, *span) for span, score in best.items()), key=lambda span: -span[0])
        yield row, Found(min(one.null for one in each), ranked[:N_BEST])


def _best_answer(row: Row, found: Found, spec: JobSpec) -> tuple[str, int | None]:
    if not found.spans or (_task(spec).no_answer and found.null > found.spans[0][0]):
        return "", None
    return _trimmed(row[spec.columns["context"]], *found.spans[0][1:])


def _trimmed(context: str, start: int, end: int) -> tuple[str, int]:
    # Tokens of some tokenizers begin with the space before them.
    text = context[start:end]
    return text.strip(), start + len(text) - len(text.lstrip())


TASK = QuestionAnsweringTask()
