"""Windows over contexts that are too long for one sequence, each with the question before it.

question 3 tokens, context 9, max_length 10, of which 3 are special, stride 1

[CLS] q q q [SEP] c1 c2 c3 [SEP]    [CLS] q q q [SEP] c3 c4 c5 [SEP]    …
"""

from collections.abc import Iterator
from itertools import chain, groupby
from typing import Any, cast

import numpy as np

from app.specs import JobSpec
from app.specs.tasks.question_answering import QuestionAnswering, Span, spans
from worker.training.errors import RowTooLong
from worker.training.inputs.table import ROW, Row
from worker.training.tasks.protocol import PLACE, Features
from worker.training.tokens.truncation import place_of


def windows(rows: list[Row], tokenizer: Any, spec: JobSpec, max_length: int) -> tuple[list[Features], list[bool]]:
    """The windows of rows in their order, and whose question was truncated. Raises RowTooLong.

    `labels` are the first and last token of the row's first answer, or twice the place that means no answer; `_place` is
    the row's, `_null` that of no answer, `_context` the first token of the context, and `_offsets` from and to which
    characters its tokens go, one after the other.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    questions, lengths, truncated = _questions(rows, tokenizer, spec, max_length, room // 2)
    stride = cast("QuestionAnswering", spec.task).stride
    # No more than half of a window is what the one before has shown already.
    strides = [min(stride, (room - length) // 2) for length in lengths]
    made: list[Features] = []
    for overlap, places in groupby(sorted(range(len(rows)), key=strides.__getitem__), key=strides.__getitem__):
        made += _windows(list(places), rows, questions, tokenizer, spec, max_length, overlap)
    return sorted(made, key=lambda window: window[PLACE]), truncated


def answers_of(row: Row, spec: JobSpec) -> list[Span]:
    """The right answers of a row that was checked."""
    return cast("list[Span]", spans(row[spec.columns["answers"]], row[spec.columns["context"]]))


def _questions(
    rows: list[Row], tokenizer: Any, spec: JobSpec, max_length: int, most: int
) -> tuple[list[str], list[int], list[bool]]:
    # At most half of a sequence is for the question: its text, how many tokens it has, and whether it was truncated.
    column = spec.columns["question"]
    encoded = tokenizer(
        [row[column] for row in rows], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    questions: list[str] = []
    for row, offsets in zip(rows, encoded["offset_mapping"], strict=True):
        is_long = len(offsets) > most
        if is_long and not spec.tokenization.truncation:
            message = (
                f"row {row[ROW]}: its question has {len(offsets)} tokens; {most} of max_length {max_length} are for it"
            )
            raise RowTooLong(message, details={**place_of(row), "column": column})
        questions.append(row[column][: offsets[most - 1][1]] if is_long else row[column])
    lengths = [len(offsets) for offsets in encoded["offset_mapping"]]
    return questions, [min(length, most) for length in lengths], [length > most for length in lengths]


def _windows(
    places: list[int],
    rows: list[Row],
    questions: list[str],
    tokenizer: Any,
    spec: JobSpec,
    max_length: int,
    stride: int,
) -> Iterator[Features]:
    # The question comes first for every tokenizer: left-to-right models must have read it before the context.
    encoded = tokenizer(
        [questions[place] for place in places],
        [rows[place][spec.columns["context"]] for place in places],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    answers = [next(iter(answers_of(rows[place], spec)), None) for place in places]
    names = [name for name in encoded if name in tokenizer.model_input_names and name != "attention_mask"]
    for number, sample in enumerate(encoded["overflow_to_sample_mapping"]):
        ids, sides = encoded["input_ids"][number], encoded.sequence_ids(number)
        first = sides.index(1) if 1 in sides else len(sides)
        offsets = np.reshape(encoded["offset_mapping"][number], (-1, 2))[first : first + sides.count(1)]
        null = _null_place(ids, tokenizer)
        yield {
            **{name: encoded[name][number] for name in names},
            "labels": _label(answers[sample], offsets, first) or [null, null],
            PLACE: places[sample],
            "_null": null,
            "_context": first,
            "_offsets": list(chain.from_iterable(offsets.tolist())),
        }


def _null_place(ids: list[int], tokenizer: Any) -> int:
    # The place that means no answer: CLS, which some models have at the end; otherwise the first token.
    return next((ids.index(token) for token in (tokenizer.cls_token_id, tokenizer.bos_token_id) if token in ids), 0)


def _label(answer: Span | None, offsets: np.ndarray[Any, Any], first: int) -> list[int] | None:
    if answer is None or not len(offsets):
        return None
    start = answer.start + len(answer.text) - len(answer.text.lstrip())
    end = answer.start + len(answer.text.rstrip())
    if start < offsets[0, 0] or end > offsets[-1, 1]:
        return None
    begin, last = np.searchsorted(offsets[:, 1], start, side="right"), np.searchsorted(offsets[:, 0], end) - 1
    return [first + int(begin), first + int(last)] if begin <= last else None
