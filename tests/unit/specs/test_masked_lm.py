from typing import Any

import pytest
from pydantic import ValidationError

from app.specs import JobSpec
from app.specs.rows import row_problems
from app.specs.tasks.masked_lm import MaskedLM


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"body": "words"}, []),
        ({"body": ""}, ["the text is empty"]),
        ({"body": None}, ["no text"]),
        ({"body": ["words"]}, ["text must be a string, this is list"]),
        ({"text": "words"}, ["no text"]),
    ],
)
def test_rows_need_a_text(row: dict[str, Any], expected: list[str]) -> None:
    task = MaskedLM.model_validate({"type": "masked-lm"})
    assert [problem.message for problem in row_problems(task, "train", [row], {"text": "body"}, None)] == expected


def body(**parts: Any) -> dict[str, Any]:
    rows = {"train": {"rows": [{"text": "a"}]}}
    return {"task": {"type": "masked-lm"}, "model": "google-bert/bert-base-cased", "data": rows, **parts}


def test_perplexity_picks_the_best() -> None:
    assert JobSpec.model_validate(body()).best_by == "perplexity"


@pytest.mark.parametrize("probability", [0, 1, -0.1, "0.15"])
def test_some_tokens_are_hidden_and_never_all(probability: Any) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(body(task={"type": "masked-lm", "mask_probability": probability}))


@pytest.mark.parametrize("training", [{"class_weights": "balanced"}, {"engine": "tensorflow"}])
def test_what_does_not_go_with_it_is_refused(training: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="works with"):
        JobSpec.model_validate({**body(), "training": training})
