from typing import Any

import pytest
from pydantic import ValidationError

from app.specs import JobSpec
from app.specs.rows import row_problems
from app.specs.tasks.seq2seq import Seq2Seq

COLUMNS = {"source": "document", "target": "summary"}


def faults(row: dict[str, Any]) -> list[tuple[str, str]]:
    task = Seq2Seq.model_validate({"type": "seq2seq"})
    return [(problem.column, problem.message) for problem in row_problems(task, "train", [row], COLUMNS, None)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"document": "long", "summary": "short"}, []),
        ({"document": "long", "summary": ""}, [("summary", "the text is empty")]),
        ({"document": " \n", "summary": "short"}, [("document", "the text is empty")]),
        ({"document": "long", "summary": None}, [("summary", "no text")]),
        ({"summary": "short"}, [("document", "no text")]),
        ({"document": "long", "summary": 7}, [("summary", "text must be a string, this is int")]),
        ({"document": {"en": "a"}, "summary": []}, [
            ("document", "text must be a string, this is dict"), ("summary", "text must be a string, this is list"),
        ]),
    ],
)  # fmt: skip
def test_rows_need_a_source_and_a_target(row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert faults(row) == expected


def body(**task: Any) -> dict[str, Any]:
    rows = {"train": {"rows": [{"source": "a", "target": "b"}]}}
    return {"task": {"type": "seq2seq", **task}, "model": "google-t5/t5-small", "data": rows}


@pytest.mark.parametrize(
    ("problem", "best"), [("text-to-text", "rougeL"), ("summarization", "rougeL"), ("translation", "bleu")]
)
def test_the_problem_chooses_the_metrics(problem: str, best: str) -> None:
    assert JobSpec.model_validate(body(problem=problem)).best_by == best


def test_languages_come_in_pairs() -> None:
    assert JobSpec.model_validate(body(source_language="en_XX", target_language="ro_RO"))
    with pytest.raises(ValidationError, match="given together"):
        JobSpec.model_validate(body(target_language="ro_RO"))


@pytest.mark.parametrize("training", [{"class_weights": "balanced"}, {"engine": "tensorflow"}])
def test_what_does_not_go_with_it_is_refused(training: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="works with"):
        JobSpec.model_validate({**body(), "training": training})
