"""`training.batch_tokens` and what it does not work with."""

from typing import Any

import pytest
from pydantic import ValidationError
from tiny import spec

from app.specs import JobSpec, problems
from app.specs.features import used_features

COUNTED = {"batch_tokens": 4096}


def test_it_is_a_feature_that_a_worker_must_know() -> None:
    assert "training.batch_tokens" in used_features(JobSpec.model_validate(spec(training=COUNTED)))
    assert "training.batch_tokens" not in used_features(JobSpec.model_validate(spec()))


@pytest.mark.parametrize(
    ("parts", "param", "says"),
    [
        ({"training": {"batch_size": 4}}, "training.batch_size", "not both"),
        ({"training": {"batching": "random"}}, "training.batching", "must be 'length'"),
        ({"task": {"type": "sentence-embedding"}}, "training.batching", "must be 'length'"),
        ({"tokenization": {"padding": "max_length"}}, "tokenization.padding", "must be 'longest'"),
        ({"tokenization": {"max_length": 5000}}, "training.batch_tokens", "max_length (5000)"),
        ({"training": {"engine": "tensorflow"}}, "training.batch_tokens", "trainer and pytorch"),
        (
            {"data": {"train": {"hub": "x", "streaming": True}}, "training": {"max_steps": 5}},
            "training.batch_tokens",
            "set training.batch_size with streaming",
        ),
    ],
)
def test_what_decides_otherwise_is_refused_with_its_field(parts: dict[str, Any], param: str, says: str) -> None:
    asked = {
        "task": {"type": "text-classification"},
        "model": "m",
        "data": {"train": {"rows": [{"text": "a", "label": "b"}]}},
        **parts,
        "training": {**COUNTED, **parts.get("training", {})},
    }
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(asked)
    (found,) = problems(caught.value, asked)
    assert found.param == param
    assert says in found.message
