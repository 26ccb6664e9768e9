"""The order of the rows of an epoch: which rows share a step."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tiny import uneven_sentences

from app.specs import JobSpec
from worker.training.evaluation.prediction import batches_by_length
from worker.training.loop.batching import EpochSampler, by_length, order_of_epoch, texts, without_duplicates
from worker.training.planning.plan import Plan
from worker.training.tokens.tokenization import lengths

Make = Callable[[JobSpec], Plan]


@pytest.fixture
def prepared(spec: Callable[..., JobSpec], plan: Make) -> Callable[..., Plan]:
    def make(rows: int = 203, **training: Any) -> Plan:
        return plan(spec(data={"train": {"rows": uneven_sentences(rows)}}, training={"batch_size": 8, **training}))

    return make


def padded(order: list[int], tokens: list[int], size: int) -> int:
    steps = [order[start : start + size] for start in range(0, len(order), size)]
    return sum(len(step) * max(tokens[place] for place in step) for step in steps)


def test_rows_of_similar_length_share_a_step_and_each_row_comes_once(prepared: Callable[..., Plan]) -> None:
    ready = prepared()
    assert ready.resolved.batching == "length"
    tokens = lengths(ready.encoded["train"])
    for epoch in range(3):
        order = order_of_epoch(ready, epoch)
        assert sorted(order) == list(range(203))
        anywhere = torch.randperm(203).tolist()
        assert padded(order, tokens, 8) < 1.15 * sum(tokens) < padded(anywhere, tokens, 8)


def test_the_first_step_of_a_run_has_the_longest_rows(prepared: Callable[..., Plan]) -> None:
    ready = prepared(gradient_accumulation=2)
    tokens = lengths(ready.encoded["train"])
    first = [tokens[place] for place in order_of_epoch(ready, 0)[:16]]
    assert first == sorted(tokens, reverse=True)[:16]


def test_steps_come_in_another_order_each_epoch_and_mix_other_rows(prepared: Callable[..., Plan]) -> None:
    ready = prepared()
    epochs = [order_of_epoch(ready, epoch) for epoch in range(1, 4)]
    assert epochs[0] == order_of_epoch(ready, 1)
    steps = [{frozenset(order[start : start + 8]) for start in range(0, 200, 8)} for order in epochs]
    assert len(steps[0] & steps[1]) < 3
    tokens = lengths(ready.encoded["train"])
    longest = [max(tokens[place] for place in epochs[0][start : start + 8]) for start in range(0, 200, 8)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_halving_the_batch_keeps_the_rows_of_each_step(prepared: Callable[..., Plan]) -> None:
    ready = prepared()
    halved = ready.resolved.model_copy(update={"batch_size": 4, "gradient_accumulation": 2})
    assert order_of_epoch(replace(ready, resolved=halved), 1) == order_of_epoch(ready, 1)


def test_random_is_the_order_of_earlier_versions(prepared: Callable[..., Plan]) -> None:
    ready = prepared(batching="random")
    expected = torch.randperm(203, generator=torch.Generator().manual_seed(42 + 2)).tolist()
    sampler = EpochSampler(ready)
    sampler.set_epoch(2)
    assert list(sampler) == expected
    assert len(sampler) == 203


@pytest.mark.parametrize("lead", [0, 3, 7, 40])
def test_the_rows_that_complete_an_earlier_step_come_first(lead: int) -> None:
    tokens = [1 + place % 13 for place in range(40)]
    order = by_length(tokens, 8, np.random.default_rng(1), lead)
    assert sorted(order) == list(range(40))
    steps = [order[start : start + 8] for start in range(lead, 40 - 7, 8)]
    assert all(max(tokens[place] for place in step) - min(tokens[place] for place in step) <= 3 for step in steps)


def numbered(*rows: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(rows, dtype=np.int64)


def test_no_text_occurs_twice_in_a_step() -> None:
    same = numbered(*((place % 20, 100 + place) for place in range(60)))
    for lead in (0, 5):
        order = without_duplicates(same, 10, np.random.default_rng(1), lead)
        assert sorted(order) == list(range(60))
        starts = [0, *range(lead or 10, 50, 10)]
        for start, end in pairwise(starts):
            assert len(set(same[order[start:end], 0])) == end - start


def test_duplicates_come_last_if_nothing_else_is_left() -> None:
    order = without_duplicates(numbered((1,), (1,), (1,), (1,), (1,), (2,), (3,)), 2, np.random.default_rng(1))
    assert sorted(order) == list(range(7))
    assert set(order[-3:]) <= set(range(5))


def test_many_rows_of_few_texts_take_no_long_search() -> None:
    draw = np.random.default_rng(1)
    few = np.where(draw.random(200_000) < 0.97, 0, draw.integers(1, 9, 200_000))[:, None]
    # A search through all rows for each step would take hours.
    assert sorted(without_duplicates(few, 8, draw)) == list(range(200_000))


def test_embeddings_are_trained_on_steps_without_duplicates(plan: Make) -> None:
    words = ("film", "plot", "cast", "good", "great", "bad", "awful")
    pairs = [
        {"anchor": f"the {words[place % 4]}", "positive": f"{words[place // 4]} {words[place % 4]} was"}
        for place in range(16)
    ]
    body = {
        "task": {"type": "sentence-embedding"},
        "model": "local:tiny",
        "data": {"train": {"rows": pairs}},
        "training": {"batch_size": 4, "max_steps": 4},
        "resources": {"gpus": 0},
    }
    ready = plan(JobSpec.model_validate(body))
    assert ready.resolved.batching == "no_duplicates"
    found, order = texts(ready.encoded["train"]), order_of_epoch(ready, 0)
    for start in range(0, 16, 4):
        assert len(set(found[order[start : start + 4]].ravel().tolist())) == 8


def test_a_task_without_negatives_refuses_to_avoid_duplicates(spec: Callable[..., JobSpec]) -> None:
    with pytest.raises(ValueError, match="works with sentence-embedding"):
        spec(training={"batching": "no_duplicates"})


def test_a_batch_of_an_evaluation_ends_where_the_rest_would_be_padding() -> None:
    tokens = [10, 500, 10, 480, 490, 12, 11, 470, 10, 13]
    assert batches_by_length(tokens, 32, keeps_size=False) == [[1, 4, 3, 7], [9, 5, 6, 0, 2, 8]]
    assert batches_by_length(tokens, 32, keeps_size=True) == [[1, 4, 3, 7, 9, 5, 6, 0, 2, 8]]
    assert [len(batch) for batch in batches_by_length([5] * 10, 4, keeps_size=False)] == [4, 4, 2]
