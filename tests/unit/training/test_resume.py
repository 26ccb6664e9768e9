"""A run that is stopped anywhere and resumed ends where an undisturbed one does."""

from collections.abc import Callable
from typing import Any

import pytest
from interruption import interrupted

from app.specs import JobSpec

# TensorFlow takes seconds to start, and has its own tests of the same in test_tensorflow.py.
pytestmark = pytest.mark.parametrize("engine", ["trainer", "pytorch"])

Make = Callable[..., JobSpec]
Train = Callable[..., Any]


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 15), (4, 6)])
def test_a_stop_after_any_step_changes_no_byte(spec: Make, train: Train, accumulation: int, steps: int) -> None:
    # 18 rows: the last batch of an epoch is ragged, and so is its last accumulation.
    asked = spec(
        rows=18,
        data={"eval": None},
        training={"gradient_accumulation": accumulation, "epochs": 3, "warmup_steps": 2, "weight_decay": 0.1},
        checkpoints={"strategy": "none"},
    )
    whole = train(asked, "whole")
    assert whole.result["step"] == steps
    for stop in range(1, steps):
        again = interrupted(train, asked, stop)
        assert again.result["status"] == "succeeded"
        assert again.weights == whole.weights, f"stopped after step {stop}"


@pytest.mark.parametrize("stop", [2, 5, 7])
def test_smaller_batches_go_on_over_the_same_rows(spec: Make, train: Train, stop: int) -> None:
    asked = spec(
        rows=18,
        model={"id": "local:tiny", "config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}},
        data={"eval": None},
        training={"epochs": 3, "learning_rate": 0.001},
        checkpoints={"strategy": "none"},
    )
    whole = train(asked, "whole")
    again = interrupted(train, asked, stop, batch_size=2, gradient_accumulation=2)
    assert again.result["status"] == "succeeded"
    assert again.result["step"] == whole.result["step"] == 15
    # Losses tell the rows apart. Weights need not agree: a key's bias has no gradient but rounding, and Adam scales it up.
    expected = {step: loss for step, loss in whole.series("loss").items() if step > stop}
    assert again.series("loss") == pytest.approx(expected, rel=2e-3)


def test_smaller_batches_for_evaluation_find_the_same(spec: Make, train: Train) -> None:
    asked = spec(training={"epochs": 1})
    whole = train(asked, "whole")
    small = train(asked, "small", resolved=whole.resolved.model_copy(update={"eval_batch_size": 1}))
    assert small.weights == whole.weights
    assert small.result["metrics"] == pytest.approx(whole.result["metrics"], rel=1e-5)
