import pytest

from worker.training.evaluation.diagnosis import diagnose

FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
GOOD = {"loss": FALLING, "grad_norm": [1.0, 0.5], "eval_loss": [1.0, 0.4]}


def test_a_run_that_learns_has_no_warning() -> None:
    assert diagnose(GOOD, {"eval_accuracy": 0.9}, {"eval_accuracy": 0.5}) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"grad_norm": [0.0, 0.0]}, "every logged gradient norm is 0"),
        ({"eval_loss": [0.69, 32.0]}, "eval_loss rose from 0.69 to 32"),
        ({"loss": [0.7] * 4 + [30.0] * 4}, "the training loss rose from 0.7 to 30"),
        ({"loss": [0.693] * 8}, "the training loss did not change (0.693 to 0.693)"),
    ],
)
def test_numbers_of_a_run_that_did_not_learn_are_named(changed: dict[str, list[float]], says: str) -> None:
    (warning,) = diagnose({**GOOD, **changed}, {}, {})
    assert says in warning


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": [0.001] * 8},
        {"loss": [0.7] * 7},
        {"loss": [1.0, 0.2] * 4},
        {"eval_loss": [0.0001, 0.0009]},
        {"grad_norm": []},
    ],
    ids=["converged", "too few", "noisy", "tiny", "not logged"],
)
def test_little_is_no_sign(changed: dict[str, list[float]]) -> None:
    assert diagnose({**GOOD, **changed}, {}, {}) == []


def test_a_metric_that_needs_no_inputs_is_named() -> None:
    (warning,) = diagnose(GOOD, {"eval_accuracy": 0.5, "eval_f1": None}, {"eval_accuracy": 0.5, "eval_f1": 0.3})
    assert warning == "eval_accuracy is 0.5, no better than a model that ignores its inputs (0.5)"
