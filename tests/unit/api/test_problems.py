"""How pydantic's errors are reported: paths that can be found in the body, in words."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.specs import JobSpec, Problem, problems
from app.specs.problems import dotted, sentence


def _found(**parts: Any) -> list[Problem]:
    body = {
        "task": {"type": "text-classification"},
        "model": "local:x",
        "data": {"train": {"rows": [{"text": "a", "label": "b"}]}},
        **parts,
    }
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(body)
    return problems(caught.value, body)


def test_a_path_holds_no_union_tags_and_alternatives_are_joined() -> None:
    (found,) = _found(training={"batch_size": 0})
    assert (found.param, found.code) == ("training.batch_size", "greater_than_equal")
    assert found.message == "must be greater than or equal to 1, or: must be 'auto'"
    (found,) = _found(data={"train": {"dataset": "ds_1"}})
    assert found.param == "data.train.dataset"


def test_every_wrong_field_is_reported_once() -> None:
    found = _found(model=7, training={"epochs": -1, "seed": "x"}, data={})
    assert [item.param for item in found] == ["model", "data.train", "training.epochs", "training.seed"]
    assert [item.message for item in found][:2] == ["must be an object", "is required"]


@pytest.mark.parametrize(
    ("parts", "param", "says"),
    [
        ({"trainign": {}}, "trainign", "did you mean 'training'?"),
        ({"evaluation": {"best_by": "recall"}}, "evaluation.best_by", "'recall' is not computed"),
        ({"training": {"early_stopping": {"patience": 1}}}, "training.early_stopping", "needs evaluation"),
        ({"checkpoints": {"strategy": "steps"}}, "checkpoints", "'every'"),
        ({"model": {"id": "x", "config": {"auto_map": "x"}}}, "model.config", "'auto_map' is set by the service"),
        ({"model": {"id": "local:a/b"}}, "model.id", "must be a hub id"),
        ({"model": "local:a\n"}, "model", "must be a hub id"),
        ({"task": {"type": "text-classification", "labels": ["a"]}}, "task.labels", "must have at least 2 items"),
        ({"resources": {"gpus": True}}, "resources.gpus", "must be a valid integer, or: must be 'auto'"),
        ({"resources": {"gpus": 2}}, "resources.gpus", "must be less than or equal to 1, or: must be 'auto'"),
        ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 65}", "must have at most 64 characters"),
    ],
)
def test_each_rule_names_its_field(parts: dict[str, Any], param: str, says: str) -> None:
    found = _found(**parts)[0]
    assert found.param == param
    assert says in found.message


def test_names_in_a_path_are_cut_when_they_are_long() -> None:
    assert dotted(["a", 0, "b"]) == "a[0].b"
    assert dotted([3]) == "[3]"
    assert dotted(["x" * 5000]) == "x" * 100 + "…"


def test_a_sentence_reads_on_after_the_name_of_its_field() -> None:
    assert sentence("Input should be less than or equal to 1") == "must be less than or equal to 1"
    assert sentence("List should have at most 9 items after validation, not 10") == "must have at most 9 items, not 10"
    assert sentence("Value error, a class is named twice") == "a class is named twice"
