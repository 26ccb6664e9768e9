"""The order in which an epoch goes over the rows of train, so that a batch is a run of consecutive rows.

    length           rows of similar length share a step, so that there is little padding; the steps come in random order
    random           every row anywhere, as `accelerate.data_loader.SeedableRandomSampler` draws them
    no_duplicates    random, but no text occurs twice in a step, because each text is a negative example for the others

The order follows from the rows, the seed and the epoch alone, so a resumed run continues it. It is formed in whole steps,
which halving the batch size does not change: a step then has twice the passes. With `batch_tokens`, the number of rows in a
pass depends on their lengths (`worker.training.planning.token_batches`).
"""

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import BatchSampler, Sampler

from worker.training.planning.plan import Plan
from worker.training.planning.token_batches import Tier
from worker.training.tokens.tokenization import input_ids, lengths

Texts = np.ndarray[Any, np.dtype[np.int64]]
LOOKAHEAD = 20
"""A step without duplicates is looked for among so many times its rows."""
WINDOW_STEPS = 50
"""Rows are sorted by length within so many steps. Sorting all rows would always form the same batches."""


class EpochSampler(Sampler[int]):
    """The places of the encoded rows of train in the order of an epoch."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self.epoch = plan, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """The places in order."""
        yield from chain.from_iterable(passes_of_epoch(self._plan, self.epoch))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._plan.encoded["train"])


class EpochBatches(BatchSampler):
    """The places of the rows of each forward pass of an epoch, for a `DataLoader`.

    accelerate sets the epoch of its sampler, also where it wraps these batches to skip what a run has learned.
    """

    sampler: EpochSampler

    def __init__(self, plan: Plan) -> None:
        super().__init__(EpochSampler(plan), plan.resolved.batch_size, drop_last=False)
        self._plan = plan

    def __iter__(self) -> Iterator[list[int]]:
        """The places of one pass after the other."""
        yield from passes_of_epoch(self._plan, self.sampler.epoch)

    def __len__(self) -> int:
        """Passes of an epoch. All epochs have equally many."""
        return sum(tier.passes for tier in self._plan.tiers) or super().__len__()


def passes_of_epoch(plan: Plan, epoch: int) -> list[list[int]]:
    """The places of the encoded rows of train in each forward pass of an epoch, counted from 0, in order."""
    if plan.tiers:
        draw = np.random.default_rng([plan.spec.training.seed, epoch])
        return by_tokens(lengths(plan.encoded["train"]), plan.tiers, draw, is_longest_first=epoch == 0)
    return _split(order_of_epoch(plan, epoch), plan.resolved.batch_size)


def order_of_epoch(plan: Plan, epoch: int) -> list[int]:
    """The places of the encoded rows of train in the order of an epoch, counted from 0, where all passes have equal rows.

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


def by_tokens(
    tokens: list[int], tiers: list[Tier], draw: np.random.Generator, *, is_longest_first: bool
) -> list[list[int]]:
    """Places of rows (so many tokens each) in passes of the tiers' rows. The steps come in random order.

    A step with fewer rows comes last, and the step with the longest rows first if that is wanted.
    """
    places, counts = draw.permutation(len(tokens)), np.asarray(tokens)
    places = places[np.argsort(-counts[places], kind="stable")]
    steps, start = list[list[list[int]]](), 0
    for tier in tiers:
        rows = places[start : start + tier.rows]
        order = _longest_first if is_longest_first and not steps else by_length
        ordered = rows[order(counts[rows].tolist(), tier.rows_of_step, draw)].tolist()
        steps += [_split(step, tier.rows_of_pass) for step in _split(ordered, tier.rows_of_step)]
        start += tier.rows
    first = steps[:1] if is_longest_first else []
    has_fewer_rows = sum(map(len, steps[-1])) < tiers[-1].rows_of_step
    last = steps[-1:] if has_fewer_rows and len(steps) > len(first) else []
    others = steps[len(first) : len(steps) - len(last)]
    shuffled = [others[place] for place in draw.permutation(len(others))]
    return [rows for step in (*first, *shuffled, *last) for rows in step]


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


def _split(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]
