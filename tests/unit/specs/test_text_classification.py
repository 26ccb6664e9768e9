from typing import Any

import pytest
from pydantic import ValidationError

from app.specs import JobSpec
from app.specs.tasks.text_classification import TextClassification

COLUMNS = {"text": "text", "label": "label"}


def task(**options: Any) -> TextClassification:
    body = {"task": {"type": "text-classification", **options}, "model": "m", "data": {"train": {"rows": [{}]}}}
    found = JobSpec.model_validate(body).task
    assert isinstance(found, TextClassification)
    return found


def fault(asked: TextClassification, cell: Any, known: list[str] | None = None) -> str | None:
    found = list(asked.faults({"text": "x", "label": asked.read(cell)}, COLUMNS, known))
    return found[0][1] if found else None


@pytest.mark.parametrize("cell", [[], ["a"], ["a", "b"], '["a", "b"]', "[]"])
def test_several_labels_may_be_lists_or_json(cell: Any) -> None:
    assert fault(task(problem="multi-label"), cell) is None


def test_several_labels_may_be_text_with_a_separator_also_none() -> None:
    asked = task(problem="multi-label", separator=";")
    assert asked.read("a; b;") == ["a", "b"]
    assert asked.read(None) == []
    assert fault(asked, None) is None


def test_text_that_is_no_list_is_refused_with_what_to_do() -> None:
    assert "task.separator" in str(fault(task(problem="multi-label"), "a;b"))
    assert "empty list" in str(fault(task(problem="multi-label"), None))


def test_an_unknown_label_names_the_nearest() -> None:
    assert str(fault(task(), "goood", ["good", "bad"])).endswith("did you mean 'good'?")
    assert "one of the classes" in str(fault(task(problem="multi-label"), ["x"], ["good", "bad"]))


@pytest.mark.parametrize(
    ("cell", "is_number"),
    [
        (1, True),
        (0.5, True),
        ("2.5", True),
        ("x", False),
        (None, False),
        (True, False),
        (float("nan"), False),
        # An integer that is no finite float was an OverflowError.
        (10**400, False),
    ],
)
def test_numbers_are_finite_and_may_be_text(cell: Any, is_number: bool) -> None:
    assert (fault(task(problem="regression"), cell) is None) is is_number


@pytest.mark.parametrize("options", [{"problem": "regression", "labels": ["a", "b"]}, {"separator": ";"}])
def test_options_of_another_problem_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        task(**options)
