from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.specs import JobSpec
from worker.training.errors import LossNotFinite
from worker.training.loop.state import TrainingState

Make = Callable[..., JobSpec]


def state(spec: JobSpec, total: int = 10, epoch: int = 4, best_by: str | None = "accuracy") -> TrainingState:
    return TrainingState(spec, total, epoch, best_by)


def walk(state: TrainingState, property_name: str) -> list[int]:
    found: list[int] = []
    for step in range(state.total_steps + 1):
        state.step = step
        if getattr(state, property_name):
            found.append(step)
    return found


def evaluated(state: TrainingState, step: int, accuracy: float) -> None:
    state.step = step
    state.evaluated({"eval_accuracy": accuracy, "eval_loss": 1.0})


@pytest.mark.parametrize(
    ("evaluation", "steps"),
    [
        ({"strategy": "epoch"}, [4, 8, 10]),
        ({"strategy": "steps", "every": 3}, [3, 6, 9, 10]),
        ({"strategy": "none"}, []),
        ({"strategy": "epoch", "at_start": True}, [0, 4, 8, 10]),
    ],
)
def test_evaluation_comes_at_its_cadence_and_at_the_end(
    spec: Make, evaluation: dict[str, Any], steps: list[int]
) -> None:
    assert walk(state(spec(evaluation=evaluation)), "evaluation_due") == steps


@pytest.mark.parametrize(
    ("checkpoints", "steps"),
    [({"strategy": "epoch"}, [4, 8, 10]), ({"strategy": "steps", "every": 5}, [5, 10]), ({"strategy": "none"}, [])],
)
def test_checkpoints_have_a_cadence_of_their_own(spec: Make, checkpoints: dict[str, Any], steps: list[int]) -> None:
    assert walk(state(spec(checkpoints=checkpoints)), "checkpoint_due") == steps


def test_a_step_is_evaluated_once(spec: Make) -> None:
    it = state(spec())
    it.step = 4
    assert it.evaluation_due
    evaluated(it, 4, 0.5)
    assert not it.evaluation_due


def test_the_best_follows_the_metrics_direction(spec: Make) -> None:
    by_accuracy, by_loss = state(spec()), state(spec(), best_by="loss")
    for step, accuracy, loss in ((4, 0.5, 0.7), (8, 0.6, 0.9), (10, 0.6, 0.4)):
        for it in (by_accuracy, by_loss):
            it.step = step
            it.evaluated({"eval_accuracy": accuracy, "eval_loss": loss})
    assert by_accuracy.best_step == 10
    assert by_loss.best_step == 10


@pytest.mark.parametrize(
    ("losses", "best"), [((5.5, 32.1, 7.0), 4), ((32.1, 5.5, 7.0), 8), ((7.0, 7.0, 7.0), 10)], ids=str
)
def test_equal_metrics_are_decided_by_the_loss_and_then_the_later_step(
    spec: Make, losses: tuple[float, ...], best: int
) -> None:
    it = state(spec(training={"early_stopping": {"patience": 3}}))
    for step, loss in zip((4, 8, 10), losses, strict=True):
        it.step = step
        it.evaluated({"eval_accuracy": 0.6, "eval_loss": loss})
    assert it.best_step == best
    assert it.best_metrics["eval_loss"] == min(losses)
    assert it.without_improvement == 2, "a tie is no improvement"


def test_the_baseline_is_never_the_best(spec: Make) -> None:
    it = state(spec(evaluation={"at_start": True}))
    evaluated(it, 0, 0.9)
    evaluated(it, 4, 0.5)
    assert it.best_step == 4
    assert it.baseline == {"eval_accuracy": 0.9, "eval_loss": 1.0}


def test_patience_counts_gains_under_min_delta_but_the_best_still_moves(spec: Make) -> None:
    it = state(spec(training={"early_stopping": {"patience": 2, "min_delta": 0.1}}))
    evaluated(it, 1, 0.50)
    evaluated(it, 2, 0.55)
    assert (it.best_step, it.ended_early) == (2, False)
    evaluated(it, 3, 0.58)
    assert (it.best_step, it.ended_early, it.finished) == (3, True, True)


def test_a_loss_that_is_no_number_ends_the_run(spec: Make) -> None:
    it = state(spec())
    it.step = 4
    with pytest.raises(LossNotFinite, match="step 4"):
        it.evaluated({"eval_accuracy": 0.1, "eval_loss": float("nan")})


def test_a_state_travels_in_a_checkpoint(spec: Make, tmp_path: Path, train: Callable[..., Any]) -> None:
    it = state(spec())
    it.head = ("classifier.weight",)
    it.loss_sum = 0.1 + 0.2
    evaluated(it, 4, 0.5)
    it.save(tmp_path)
    resolved = train(spec()).resolved
    back = TrainingState.resume(it.spec, resolved, 4, tmp_path)
    assert (back.step, back.best_step, back.head, back.loss_sum) == (4, 4, ("classifier.weight",), 0.1 + 0.2)
    assert back.metrics == it.metrics
