import json
from typing import Any

import pytest

from app.datasets.checks import check_rows
from app.specs import JobSpec
from app.specs.tasks.question_answering import QuestionAnswering, Span, spans

CONTEXT = "The key is under the mat. [1] The cup is under the tap."
COLUMNS = {"question": "question", "context": "context", "answers": "answers"}
BOTH = [Span("under the mat", 11), Span("mat", 21)]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ({"text": ["under the mat", "mat"], "answer_start": [11, 21]}, BOTH),
        ({"text": "mat", "answer_start": 21}, [Span("mat", 21)]),
        ([{"text": "under the mat", "answer_start": 11}, {"text": "mat", "answer_start": 21}], BOTH),
        ({"text": ["under the mat", "mat"]}, BOTH),
        (["under the mat", "mat"], BOTH),
        ("mat", [Span("mat", 21)]),
        ("[1]", [Span("[1]", 26)]),
        (["[1]"], [Span("[1]", 26)]),
        (json.dumps({"text": ["mat"], "answer_start": [21]}), [Span("mat", 21)]),
        (json.dumps(["under the mat", "mat"]), BOTH),
        ({"text": ["under the"], "answer_start": [41]}, [Span("under the", 41)]),
        ({"text": [], "answer_start": []}, []),
        ('{"text": [], "answer_start": []}', []),
        ([], []),
        ("", []),
        ("  ", []),
        (None, []),
    ],
)
def test_answers_may_be_written_in_many_ways(cell: Any, expected: list[Span]) -> None:
    assert spans(cell, CONTEXT) == expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"text": ["mat"], "answer_start": [20]}, "'mat' is not at character 20 of the context; it is at 21"),
        ({"text": ["rug"], "answer_start": [3]}, "not at character 3 of the context, nor anywhere else"),
        ({"text": ["mat"], "answer_start": [True]}, "whole number from 0, this is True"),
        ({"text": ["mat"], "answer_start": [-34]}, "whole number from 0, this is -34"),
        ({"text": ["mat"], "answer_start": ["21"]}, "whole number from 0, this is '21'"),
        ({"text": ["mat"], "answer_start": []}, "lists of the same length"),
        ({"text": ["mat", " "], "answer_start": [21, 3]}, "an answer is empty"),
        ({"answer_start": [21]}, "has no 'text'"),
        ("rug", "'rug' is not in the context"),
        ([21], "each answer must be an object or a text"),
        ([["mat"]], "each answer must be an object or a text"),
        (21, "an object with text and answer_start is needed, this is int"),
        ("{'text': ['mat']}", "is not in the context"),
    ],
)
def test_answers_that_are_none_say_why(cell: Any, message: str) -> None:
    found = spans(cell, CONTEXT)
    assert isinstance(found, str)
    assert message in found


def faults(no_answer: bool = False, **row: Any) -> list[tuple[str, str]]:
    task = QuestionAnswering.model_validate({"type": "question-answering", "no_answer": no_answer})
    return list(task.faults({"question": "Where?", "context": CONTEXT, "answers": "mat", **row}, COLUMNS, None))


def test_a_row_without_an_answer_needs_a_word_in_the_spec() -> None:
    assert faults() == []
    assert faults(no_answer=True, answers=None) == []
    assert faults(answers="") == [("answers", "there is no answer; if that is intended, set task.no_answer to true")]


def test_questions_and_contexts_must_be_texts() -> None:
    assert faults(question=" ") == [("question", "the text is empty")]
    assert faults(context=7) == [("context", "text must be a string, this is int")]
    assert [role for role, _ in faults(question=None, context=None, answers=21)] == ["question", "context"]


def test_submit_finds_what_training_would() -> None:
    rows = [{"question": "Where?", "context": CONTEXT, "answers": answer} for answer in ("mat", "rug")]
    body = {"task": {"type": "question-answering"}, "model": "m", "data": {"train": {"rows": rows}}}
    report = check_rows(JobSpec.model_validate(body), rows, row_limit=10)
    assert [problem.message for problem in report.problems] == [
        "train row 2, column 'answers': the answer 'rug' is not in the context"
    ]
