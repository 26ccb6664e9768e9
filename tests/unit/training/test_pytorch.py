"""The native loop against the Trainer: one seed, one series of losses."""

from collections.abc import Callable
from typing import Any

import pytest

from app.specs import JobSpec

Make = Callable[..., JobSpec]
Train = Callable[..., Any]

FULL = {"warmup_steps": 3, "weight_decay": 0.1, "max_grad_norm": 0.5, "scheduler": "cosine"}


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    "training",
    [
        {},
        FULL,
        {"head_learning_rate": 0.02, **FULL},
        {"optimizer": "sgd", "learning_rate": 0.1},
        {"optimizer": "adafactor"},
        {"gradient_checkpointing": True, "label_smoothing": 0.1, "class_weights": "balanced"},
    ],
    ids=["defaults", "clipping, warm-up, decay", "head rate", "sgd", "adafactor", "checkpointing, smoothing, weights"],
)
def test_its_losses_are_those_of_the_trainer_step_by_step(
    spec: Make, train: Train, training: dict[str, Any], accumulation: int
) -> None:
    # 22 rows: the last batch of an epoch is ragged. Dropout is on: the random numbers must be drawn alike too.
    runs = [
        train(
            spec(
                rows=22,
                training={"engine": engine, "gradient_accumulation": accumulation, "epochs": 3, **training},
                evaluation={"best_by": "loss"},
            ),
            engine,
        )
        for engine in ("trainer", "pytorch")
    ]
    stock, ours = runs
    assert ours.result["status"] == "succeeded", ours.result
    assert len(ours.series("loss")) == len(stock.series("loss")) > 5
    for name in ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy"):
        assert ours.series(name) == pytest.approx(stock.series(name), rel=1e-4, abs=1e-7), name
    assert ours.result["metrics"] == pytest.approx(stock.result["metrics"], rel=1e-4)


def test_it_forgets_the_precision_of_an_earlier_run(spec: Make, train: Train) -> None:
    whole = train(spec(training={"engine": "pytorch", "epochs": 1}), "one")
    again = train(spec(training={"engine": "pytorch", "epochs": 1}), "two")
    assert whole.weights == again.weights
