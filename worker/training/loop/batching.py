"""The order in which an epoch goes over the rows of train, so that a batch is a run of consecutive rows.

    length           rows of similar length share a step, so that there is little padding; the steps come in random order
    random           every row anywhere, as `accelerate.data_loader.SeedableRandomSampler` draws them
    no_duplicates    random, but no text occurs twice in a step, because each text is a negative example for the others

The order follows from the rows, the seed and the epoch alone, so a resumed run continues it. It is formed in whole steps,
which halving the batch size does not change: a step then has twice the passes.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Sampler

from worker.training.planning.plan import Plan
from worker.training.tokens.tokenization import input_ids, lengths

Texts = np.ndarray[Any, np.dtype[np.int64]]
LOOKAHEAD = 20
"""A step without duplicates is looked for among so many times its rows."""
WINDOW_STEPS = 50
"""Rows are sorted by length within so many steps. Sorting all rows would always form the same batches."""


class EpochSampler(Sampler[int]):
    """The places of the encoded rows of train in the order of an epoch, for a `DataLoader`."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._epoch = plan, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, whose order the next iteration gives."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """The places in order."""
        yield from order_of_epoch(self._plan, self._epoch)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._plan.encoded["train"])


def order_of_epoch(plan: Plan, epoch: int) -> list[int]:
    """The places of the encoded rows of train in the order of an epoch, counted from 0.

    With `length`, the first step of a run has the longest rows, so that a lack of memory shows at once.
    """
    train, seed, resolved = plan.encoded["train"], plan.spec.training.seed, plan.resolved
    draw = np.random.default_rng([seed, epoch])
    match resolved.batching:
        case "length":
            order = _longest_first if epoch == 0 else by_length
            return order(lengths(train), resolved.rows_per_step, draw)
        case "no_duplicates":
            return without_duplicates(texts(train), resolved.rows_per_step, draw)
        case _:
            return torch.randperm(len(train), generator=torch.Generator().manual_seed(seed + epoch)).tolist()


def by_length(tokens: list[int], size: int, draw: np.random.Generator, lead: int = 0) -> list[int]:
    """Places of rows (so many tokens each) in an order in which each `size` places hold rows of similar length.

    The first `lead` rows, and those that fill no step at the end, are of any length.
    """
    places, counts = draw.permutation(len(tokens)), np.asarray(tokens)
    steps = max(0, (len(tokens) - lead) // size)
    first, whole, rest = np.split(places, [lead, lead + steps * size])
    for start in range(0, len(whole), WINDOW_STEPS * size):
        window = whole[start : start + WINDOW_STEPS * size]
        # Sorting is stable, so rows of equal length stay in random order.
        whole[start : start + WINDOW_STEPS * size] = window[np.argsort(-counts[window], kind="stable")]
    shuffled = whole.reshape(steps, size)[draw.permutation(steps)]
    return [*first.tolist(), *shuffled.ravel().tolist(), *rest.tolist()]


def without_duplicates(texts: Texts, size: int, draw: np.random.Generator, lead: int = 0) -> list[int]:
    """Places of rows (with these texts) in random order, in which each `size` places have no text in common.

    The first step has `lead` rows if that is not 0. A step that would need a long search takes duplicates.
    """
    rows, order = _Rows(texts, draw.permutation(len(texts)).tolist()), list[int]()
    wanted = lead or size
    while step := rows.take(wanted):
        order += step
        wanted = size
    return order


def texts(encoded: datasets.Dataset | pa.Table) -> Texts:
    """A number for each text of each row (rows, parts). Equal texts, by their tokens, have equal numbers."""
    columns = [
        [hash(cast("Any", tokens).values.to_numpy().tobytes()) for tokens in column] for column in input_ids(encoded)
    ]
    return np.asarray(columns, dtype=np.int64).T


class _Rows:
    """Rows to take. Those that clashed with a step come first in the next one."""

    def __init__(self, texts: Texts, order: list[int]) -> None:
        self._texts, self._rest, self._clashed = texts.tolist(), iter(order), deque[int]()

    def take(self, count: int) -> list[int]:
        """The next rows, without duplicates as far as they are found soon. Fewer than `count` if no more are left."""
        step, seen, clashed = list[int](), set[int](), list[int]()
        for place in islice(self._waiting(), LOOKAHEAD * count):
            if seen.isdisjoint(self._texts[place]):
                step.append(place)
                seen.update(self._texts[place])
                if len(step) == count:
                    break
            else:
                clashed.append(place)
        self._clashed.extendleft(reversed(clashed))
        while self._clashed and len(step) < count:
            step.append(self._clashed.popleft())
        return step

    def _waiting(self) -> Iterator[int]:
        while self._clashed:
            yield self._clashed.popleft()
        yield from self._rest


def _longest_first(tokens: list[int], size: int, draw: np.random.Generator) -> list[int]:
    counts = np.asarray(tokens)
    places = np.argsort(-counts, kind="stable")
    longest, others = places[:size], places[size:]
    return [*longest.tolist(), *others[by_length(counts[others].tolist(), size, draw)].tolist()]
