from typing import Any

import pytest

from app.specs import JobSpec
from app.specs.preflight import Survey
from app.specs.rows import RowProblem


def survey(task: dict[str, Any] | None = None) -> Survey:
    data = {"train": {"rows": [{}]}}
    spec = JobSpec.model_validate({"task": {"type": "text-classification", **(task or {})}, "model": "m", "data": data})
    return Survey(spec.task, spec.columns)


def rows(split: str, labels: str, seen: Survey) -> None:
    for number, label in enumerate(labels, start=1):
        seen.row(split, number, {"text": f"{split} {number}", "label": label})


def codes(found: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in found["warnings"]]


def test_classes_are_counted_by_split() -> None:
    seen = survey()
    rows("train", "aab" * 5, seen)
    rows("eval", "aba" * 5, seen)
    found = seen.findings()
    assert found["classes"] == {"train": {"a": 10, "b": 5}, "eval": {"a": 10, "b": 5}}
    assert found["label_drift"] == {"eval": 0.0}
    assert found["warnings"] == []


def test_drift_is_the_share_of_rows_that_would_have_to_change() -> None:
    seen = survey()
    rows("train", "a" * 80 + "b" * 20, seen)
    rows("eval", "a" * 50 + "b" * 50, seen)
    found = seen.findings()
    assert found["label_drift"] == {"eval": 0.3}
    assert codes(found) == ["label_drift"]
    assert "'a' is 80% of train and 50% of eval" in found["warnings"][0]["message"]


def test_what_chance_does_to_a_few_rows_is_no_drift() -> None:
    seen = survey()
    rows("train", "ab" * 50, seen)
    rows("eval", "aab", seen)
    found = seen.findings()
    assert found["label_drift"]["eval"] > 0.1
    assert codes(found) == []


def test_classes_with_similar_names_are_named() -> None:
    seen = survey()
    for number, label in enumerate(["Positive", "postive", "bad"] * 3, start=1):
        seen.row("train", number, {"text": f"{number}", "label": label})
    (warning,) = seen.findings()["warnings"]
    assert warning["code"] == "similar_labels"
    assert "'Positive', 'postive' have similar names" in warning["message"]


def test_eval_rows_that_stand_in_train_are_named_whatever_their_spaces_and_label() -> None:
    seen = survey()
    rows("train", "abab", seen)
    for number, text in enumerate(("new", " train   2 ", "train 9", "train 4"), start=1):
        seen.row("eval", number, {"text": text, "label": "a"})
    found = seen.findings()
    assert found["duplicates"] == {"eval": {"count": 2, "rows": [2, 4]}}
    assert "2 of 4 eval rows also appear in train, the first is row 2" in found["warnings"][-1]["message"]


def test_a_class_that_is_rare_beside_another_is_reported() -> None:
    seen = survey()
    rows("train", "a" * 60 + "b" * 3, seen)
    assert codes(seen.findings()) == ["class_imbalance"]


def test_numbers_have_no_classes() -> None:
    seen = survey({"problem": "regression"})
    seen.row("train", 1, {"text": "x", "label": 0.5})
    found = seen.findings()
    assert (found["classes"], found["rows"]) == ({}, {"train": 1})


@pytest.mark.parametrize("count", [3, 30])
def test_the_first_twenty_bad_rows_are_kept_with_what_to_do(count: int) -> None:
    seen = survey()
    for number in range(count):
        seen.bad(RowProblem("train", number + 1, None, "label", "the label is odd; mend it", None, "mend it"))
    seen.skipped("train", count)
    found = seen.findings(is_complete=False)
    assert len(found["bad_rows"]) == min(count, 20)
    assert found["bad_rows"][0]["suggestion"] == "mend it"
    assert (found["skipped"], found["complete"]) == ({"train": count}, False)
