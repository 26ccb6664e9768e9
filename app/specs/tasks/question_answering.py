"""The answer to a question as a span of a given context (SQuAD: Rajpurkar et al., 2016 and 2018)."""

import json
from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Literal, NamedTuple, cast

from pydantic import Field

from app.specs.tasks.base import Columns, Example, Fault, Limits, Role, Row, TaskSpec, text_faults


class Span(NamedTuple):
    """An answer: its text, and the character of the context at which it begins."""

    text: str
    start: int


class QuestionAnswering(TaskSpec):
    """Find the answer to a question in a text."""

    known_roles: ClassVar[tuple[Role, ...]] = (
        Role("question", ("query",)),
        Role("context", ("passage", "paragraph")),
        Role("answers", ("answer",), is_answer=True),
    )
    example: ClassVar[Example] = {
        "name": "answers",
        "task": {"type": "question-answering"},
        "model": "google-bert/bert-base-cased",
        "data": {
            "train": {
                "rows": [
                    {
                        "question": "Where is the key?",
                        "context": "The key is under the mat.",
                        "answers": {"text": ["under the mat"], "answer_start": [11]},
                    }
                ]
            }
        },
    }
    limits: ClassVar[Limits] = {"training.class_weights": (None,)}

    type: Literal["question-answering"] = Field(description="The task type.")
    no_answer: bool = Field(
        default=False, description="Whether a context may lack the answer. `answers` is then empty, as in SQuAD 2."
    )
    stride: int = Field(
        default=128, ge=0, le=100_000, description="Tokens that consecutive windows of a long context share."
    )
    max_answer_length: int = Field(default=30, ge=1, le=10_000, description="Maximum number of tokens of an answer.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of SQuAD."""
        return ("f1", "exact_match")

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows without question or context, and answers that are not at their position."""
        faults = list(text_faults(row, columns, "question", "context"))
        yield from faults
        if faults:
            return
        found = spans(row.get(columns["answers"]), cast("str", row[columns["context"]]))
        if isinstance(found, str):
            yield "answers", found
        elif not found and not self.no_answer:
            yield "answers", "there is no answer; if that is intended, set task.no_answer to true"


def spans(cell: Any, context: str) -> list[Span] | str:
    """The answers in a cell, or what is wrong with it.

    Supported are `{"text": […], "answer_start": […]}`, an object with one text and start, a list of such objects, the
    same as JSON text, and a plain text, which is searched for in the context. An empty cell has no answers.
    """
    read = _parsed(cell)
    match read:
        case None:
            return []
        case str():
            return _checked(read, None, context)
        case list():
            return _all(cast("list[Any]", read), context)
        case dict():
            return _of_object(cast("dict[str, Any]", read), context)
        case _:
            return f"an object with text and answer_start is needed, this is {type(read).__name__}"


def _of_object(answer: dict[str, Any], context: str) -> list[Span] | str:
    texts, starts = answer.get("text"), answer.get("answer_start")
    if isinstance(texts, str):
        return _checked(texts, starts, context)
    if not isinstance(texts, list):
        return "the object has no 'text'"
    count = len(cast("list[Any]", texts))
    starts = [None] * count if starts is None else starts
    if not isinstance(starts, list) or len(cast("list[Any]", starts)) != count:
        return "'text' and 'answer_start' must be lists of the same length"
    pairs = zip(cast("list[Any]", texts), cast("list[Any]", starts), strict=True)
    return _all([{"text": text, "answer_start": start} for text, start in pairs], context)


def _parsed(cell: Any) -> Any:
    # CSV files hold the object as JSON; any other text is the answer itself, "[1]" too.
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    if not cell.lstrip().startswith(("{", "[")):
        return cell
    try:
        read = json.loads(cell)
    except ValueError:
        return cell
    parts = cast("list[Any]", read if isinstance(read, list) else [read])
    return cast("Any", read) if all(isinstance(part, (dict, str)) for part in parts) else cell


def _all(cells: list[Any], context: str) -> list[Span] | str:
    found: list[Span] = []
    for cell in cells:
        if isinstance(cell, str):
            inner = _checked(cell, None, context)
        else:
            inner = spans(cell, context) if isinstance(cell, dict) else "each answer must be an object or a text"
        if isinstance(inner, str):
            return inner
        found += inner
    return found


def _checked(text: Any, start: Any, context: str) -> list[Span] | str:
    if not isinstance(text, str) or not text.strip():
        return "an answer is empty"
    place = context.find(text)
    if start is None:
        return [Span(text, place)] if place >= 0 else f"the answer '{text[:60]}' is not in the context"
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        return f"answer_start must be a whole number from 0, this is {start!r}"
    if context[start : start + len(text)] != text:
        there = f"; it is at {place}" if place >= 0 else ", nor anywhere else in it"
        return f"the answer '{text[:60]}' is not at character {start} of the context{there}"
    return [Span(text, start)]


SPEC = QuestionAnswering
