"""Batches of so many padded tokens: how rows share forward passes, in each epoch and after a resume."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
from interruption import interrupted
from tiny import uneven_sentences

from app.specs import JobSpec
from worker.training.loop.batching import EpochBatches, by_tokens, passes_of_epoch
from worker.training.loop.workload import Workload
from worker.training.planning.plan import Plan
from worker.training.planning.token_batches import tiers
from worker.training.tokens.tokenization import lengths

LENGTHS = np.random.default_rng(0).integers(5, 512, 700).tolist()


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("limit", [512, 4096])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_pass_fits_and_is_not_half_empty(limit: int, accumulation: int, epoch: int) -> None:
    found = tiers(LENGTHS, limit, accumulation)
    passes = by_tokens(LENGTHS, found, np.random.default_rng(epoch), is_longest_first=epoch == 0)
    assert sorted(chain.from_iterable(passes)) == list(range(700))
    padded = [len(rows) * max(LENGTHS[place] for place in rows) for rows in passes]
    assert max(padded) <= limit
    assert len(passes) == sum(tier.passes for tier in found)
    if limit == 4096:
        assert sum(padded) < 1.1 * sum(LENGTHS)
        assert len(passes) < 1.4 * sum(LENGTHS) / limit


def test_each_step_has_its_passes_and_only_the_last_one_has_fewer_rows() -> None:
    found = tiers(LENGTHS, 2048, 3)
    passes = by_tokens(LENGTHS, found, np.random.default_rng(1), is_longest_first=False)
    steps = [passes[start : start + 3] for start in range(0, len(passes), 3)]
    assert len(steps) == sum(tier.steps for tier in found)
    assert all(len(step) == 3 and len({*map(len, step)}) == 1 for step in steps[:-1])


def test_the_first_step_has_the_longest_rows_and_epochs_differ() -> None:
    found = tiers(LENGTHS, 2048, 2)
    epochs = [
        by_tokens(LENGTHS, found, np.random.default_rng(epoch), is_longest_first=epoch == 0) for epoch in range(3)
    ]
    first = list(chain.from_iterable(epochs[0][:2]))
    assert [LENGTHS[place] for place in first] == sorted(LENGTHS, reverse=True)[: len(first)]
    assert len({len(passes) for passes in epochs}) == 1
    together = [{frozenset(rows) for rows in passes} for passes in epochs]
    assert len(together[1] & together[2]) < len(epochs[0]) / 2


@pytest.mark.parametrize(
    ("tokens", "rows"), [([7], [1]), ([300, 300], [1, 1]), ([9] * 5, [5]), ([90, *[2] * 9], [1, 9])]
)
def test_few_rows_and_rows_that_are_too_long(tokens: list[int], rows: list[int]) -> None:
    passes = by_tokens(tokens, tiers(tokens, 100, 1), np.random.default_rng(0), is_longest_first=True)
    assert [*map(len, passes)] == rows


def counted(spec: Callable[..., JobSpec], engine: str, **training: Any) -> JobSpec:
    return spec(
        data={"train": {"rows": uneven_sentences(40)}, "eval": None},
        tokenization={"max_length": 64},
        training={"engine": engine, "batch_size": 8, "batch_tokens": 160, **training},
        checkpoints={"strategy": "none"},
    )


def test_a_plan_counts_its_steps_and_their_work(spec: Callable[..., JobSpec], plan: Callable[[JobSpec], Plan]) -> None:
    ready = plan(counted(spec, "pytorch", gradient_accumulation=2, epochs=3))
    tokens = lengths(ready.encoded["train"])
    passes = passes_of_epoch(ready, 1)
    assert len(EpochBatches(ready)) == len(passes)
    assert max(len(rows) * max(tokens[place] for place in rows) for rows in passes) <= 160
    assert ready.steps_per_epoch == -(-len(passes) // 2)
    assert ready.resolved.total_steps == 3 * ready.steps_per_epoch
    work = Workload(ready, None)
    epoch = [work.of_step(step) for step in range(ready.steps_per_epoch)]
    assert sum(epoch) == sum(len(rows) * max(tokens[place] for place in rows) for rows in passes)


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_every_row_is_learned_once_an_epoch_and_a_stop_changes_no_byte(
    spec: Callable[..., JobSpec], train: Callable[..., Any], engine: str
) -> None:
    asked = counted(spec, engine, epochs=2, gradient_accumulation=2)
    whole = train(asked, "whole")
    steps = whole.resolved.total_steps
    assert (whole.result["status"], whole.result["step"]) == ("succeeded", steps)
    assert set(whole.series("loss")) == set(range(1, steps + 1))
    for stop in (1, steps // 2, steps // 2 + 1):
        again = interrupted(train, asked, stop)
        assert again.weights == whole.weights, f"stopped after step {stop}"


def test_both_engines_learn_the_same(spec: Callable[..., JobSpec], train: Callable[..., Any]) -> None:
    losses = [train(counted(spec, engine), engine).series("loss") for engine in ("trainer", "pytorch")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
