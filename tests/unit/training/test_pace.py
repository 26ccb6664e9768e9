"""Progress, the estimate of the time that is left, and what the first steps measure."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import sentences

from app.specs import JobSpec
from worker.training.loop.pace import Fit, Pace
from worker.training.loop.state import TrainingState
from worker.training.loop.workload import Workload
from worker.training.planning.plan import Plan
from worker.training.reports import Record, Reporter

Clock = list[float]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    now = [0.0]
    monkeypatch.setattr("worker.training.loop.pace.time.monotonic", lambda: now[0])
    return now


def planned(spec: Callable[..., JobSpec], plan: Callable[[JobSpec], Plan], rows: list[Any], **parts: Any) -> Plan:
    training = {"batch_size": 4, **parts.pop("training", {})}
    return plan(spec(data={"train": {"rows": rows}, **parts.pop("data", {})}, training=training, **parts))


def reporting(ready: Plan, folder: Path, records: list[Record]) -> Plan:
    return replace(ready, report=Reporter(folder, records.append))


def test_progress_comes_at_the_first_and_last_step_and_once_a_second(
    spec: Callable[..., JobSpec], plan: Callable[[JobSpec], Plan], tmp_path: Path, clock: Clock
) -> None:
    records: list[Record] = []
    body = {"evaluation": {"strategy": "none"}, "checkpoints": {"strategy": "steps", "every": 1}}
    ready = planned(spec, plan, sentences(20), training={"epochs": 2}, **body)
    ready = reporting(ready, tmp_path / "reports", records)
    state = TrainingState(ready.spec, 10, 5, None)
    pace = Pace(ready, state, None, is_evaluated_again=False)
    for step in range(1, 11):
        clock[0] += 0.4
        state.step = step
        pace.tick()
        with pace.aside("checkpoint"):
            clock[0] += 0.2
    reported = [record for record in records if record["type"] == "progress"]
    assert [record["step"] for record in reported] == [1, 3, 5, 7, 9, 10]
    assert all(record["samples_per_second"] == 10.0 for record in reported)
    # A step and its checkpoint take 0.6 s. The time of a checkpoint is unknown before the first one.
    assert [record["eta_seconds"] for record in reported[1:]] == pytest.approx([4.2, 3.0, 1.8, 0.6, 0.0], abs=0.25)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_the_estimate_is_right_where_batches_differ_and_there_are_evaluations_and_checkpoints(
    spec: Callable[..., JobSpec], plan: Callable[[JobSpec], Plan], clock: Clock, share: float
) -> None:
    draw = np.random.default_rng(1)
    rows = [
        {"text": " ".join([row["text"]] * int(draw.integers(1, 12))), "label": row["label"]} for row in sentences(320)
    ]
    ready = planned(spec, plan, rows, data={"eval": {"rows": rows[:60]}}, training={"epochs": 2})
    state = TrainingState(ready.spec, ready.resolved.total_steps, ready.steps_per_epoch, "accuracy")
    assert state.total_steps == 160
    pace, workload = Pace(ready, state, 32, is_evaluated_again=False), Workload(ready, 32)
    estimate = 0.0
    while not state.finished:
        state.step += 1
        warming = 1.0 if state.step == 1 else 0.0
        clock[0] += warming + (0.05 + 0.002 * workload.of_step(state.step - 1)) * draw.uniform(0.9, 1.1)
        pace.tick()
        if not estimate and state.step >= share * state.total_steps:
            estimate = clock[0] + pace.eta_seconds
        if state.evaluation_due:
            with pace.aside("evaluation"):
                clock[0] += 0.0007 * workload.of_evaluation("eval")
            state.evaluated({"eval_loss": 1.0, "eval_accuracy": 0.5})
        if state.checkpoint_due:
            with pace.aside("checkpoint"):
                clock[0] += 0.3
    assert estimate == pytest.approx(clock[0], rel=0.2)


def test_the_first_steps_are_reported_once_and_completed_by_an_evaluation_and_a_checkpoint(
    spec: Callable[..., JobSpec], plan: Callable[[JobSpec], Plan], tmp_path: Path, clock: Clock
) -> None:
    records: list[Record] = []
    body = {"evaluation": {"strategy": "steps", "every": 5}, "data": {"eval": {"rows": sentences(4)}}}
    ready = planned(spec, plan, sentences(20), training={"epochs": 2, "gradient_accumulation": 1}, **body)
    ready = reporting(ready, tmp_path / "reports", records)
    state = TrainingState(ready.spec, 10, 5, "accuracy")
    pace = Pace(ready, state, None, is_evaluated_again=True)
    for step in range(1, 11):
        clock[0] += 0.4
        state.step = step
        pace.tick()
        if step % 5 == 0:
            with pace.aside("evaluation"):
                clock[0] += 0.7
            with pace.aside("checkpoint"):
                clock[0] += 0.3
    steps = [record["preflight"]["steps"] for record in records if record["type"] == "preflight"]
    assert [(found["batches"], found["evaluation_seconds"], found["checkpoint_seconds"]) for found in steps][1:] == [
        (3, 0.7, 0.0),
        (3, 0.7, 0.3),
    ]
    assert steps[0]["first_seconds"] == steps[0]["step_seconds"] == 0.4
    assert steps[0]["peak_bytes"] > 10_000_000
    assert 0 < steps[0]["evaluation_seconds"] < 0.4


def test_a_line_is_fitted_without_the_first_step() -> None:
    fit = Fit()
    fit.add(100, 9.0)
    for work in (10, 20, 30, 40):
        fit.add(work, 0.5 + 0.01 * work)
    assert fit.seconds(3, 60) == pytest.approx(1.5 + 0.6)
    assert fit.total == pytest.approx(9.0 + 2.0 + 1.0)


def test_few_or_equal_steps_are_taken_in_proportion() -> None:
    fit = Fit()
    assert fit.seconds(5, 50) == 0
    fit.add(100, 2.0)
    assert fit.seconds(1, 50) == pytest.approx(1.0)
    for _ in range(6):
        fit.add(10, 1.0)
    assert fit.seconds(2, 20) == pytest.approx(2.0)
