from typing import Any

import pytest
from pydantic import ValidationError

from app.specs import JobSpec, problems

TRAIN = {"hub": "someone/reviews", "streaming": True}


def body(**parts: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "task": {"type": "text-classification"},
        "model": "m",
        "data": {"train": TRAIN},
        "training": {"max_steps": 10},
    }
    for name, part in parts.items():
        whole[name] = {**whole.get(name, {}), **part}
    return whole


def test_a_stream_can_be_asked_for() -> None:
    data = JobSpec.model_validate(body(data={"eval": {"hub": "someone/reviews", "split": "test[:100]"}})).data
    assert data.train.model_dump() == {
        "hub": "someone/reviews",
        "config": None,
        "split": "train",
        "revision": None,
        "streaming": True,
        "shuffle_buffer": 10_000,
    }


@pytest.mark.parametrize(
    ("parts", "param", "says"),
    [
        ({"training": {"max_steps": None}}, "training.max_steps", "the number of rows is unknown"),
        ({"data": {"eval": TRAIN}}, "data.eval.streaming", "cannot be streamed; limit it with a slice"),
        (
            {"data": {"test": TRAIN, "train": {"hub": "x"}}},
            "data.test.streaming",
            "cannot be streamed; limit it with a slice",
        ),
        ({"data": {"eval_fraction": 0.1}}, "data.eval_fraction", "cannot be split"),
        ({"data": {"subset": {"train": 10}}}, "data.subset.train", "training.max_steps"),
        ({"data": {"train": {**TRAIN, "split": "train[:10%]"}}}, "data.train.split", "without a slice"),
        ({"training": {"class_weights": "balanced"}}, "training.class_weights", "cannot be counted"),
        ({"training": {"engine": "tensorflow"}}, "training.engine", "trainer and pytorch"),
        ({"task": {"type": "causal-lm", "packing": True}}, "task.packing", "cannot be packed"),
        ({"task": {"type": "preference"}}, "data.train.streaming", "every row before the first step"),
    ],
)
def test_what_needs_all_rows_is_refused_with_its_field(parts: dict[str, Any], param: str, says: str) -> None:
    asked = body(**parts)
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(asked)
    [problem] = problems(caught.value, asked)
    assert problem.param == param
    assert says in problem.message


def test_data_that_is_read_whole_may_have_all_of_it() -> None:
    whole = body(data={"train": {"hub": "x", "split": "train[:10%]"}, "eval_fraction": 0.1, "subset": {"train": 5}})
    assert JobSpec.model_validate(whole | {"training": {"class_weights": "balanced"}}).training.max_steps is None
