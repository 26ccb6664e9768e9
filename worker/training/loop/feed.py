"""The encoded rows that an engine makes its batches from.

A streamed train split is never whole, neither on disk nor in memory, and it has no end:

    rows → read targets, drop bad rows → seeded shuffle buffer → encode a thousand rows at a time → pass after pass

The order follows from the rows, the spec and the seed alone. A resumed run reads the stream from its beginning and
skips the rows that it has learned. The batches after them are those of an undisturbed run.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader, IterableDataset

from app.specs.data import HubData
from app.specs.rows import row_problems
from worker.training.errors import BadRows, NoRows, Stopped
from worker.training.inputs.data import read_targets
from worker.training.inputs.table import BATCH, ROW, Row, Table
from worker.training.loop.batching import EpochBatches, by_length, texts, without_duplicates
from worker.training.planning.plan import Plan
from worker.training.tasks.protocol import Features
from worker.training.tokens.tokenization import compact, lengths


def feed(plan: Plan) -> "datasets.Dataset | Stream":
    """The encoded rows of train for an engine."""
    tables = plan.tables["train"].stream
    return learned(plan) if tables is None else Stream(tables, plan)


def batches_of(plan: Plan, collate: Any) -> DataLoader[Any]:
    """The batches of train, each for one forward pass."""
    rows: Any = feed(plan)
    batches = {"batch_size": plan.resolved.batch_size} if plan.is_streamed else {"batch_sampler": EpochBatches(plan)}
    return DataLoader(rows, collate_fn=collate, pin_memory=plan.resolved.device == "cuda", **cast("Any", batches))


def learned(plan: Plan) -> datasets.Dataset:
    """The encoded rows of train without the columns of the evaluation. Of a stream, the first ones."""
    train = plan.encoded["train"]
    return train.remove_columns([name for name in train.column_names if name.startswith("_")])


class Stream(IterableDataset[Features]):
    """The encoded rows of a streamed train split, in another order each pass.

    Iterating raises BadRows, NoRows, RowTooLong and HubUnreachable. It raises Stopped until it gives a row that is new to
    the model.
    """

    def __init__(self, tables: Callable[[], Iterator[Table]], plan: Plan) -> None:
        self._tables, self._encoder = tables, plan.encoder
        self._spec, self._resolved, self._report, self._stop = plan.spec, plan.resolved, plan.report, plan.stop
        self._held = cast("HubData", plan.spec.data.train).shuffle_buffer
        self._learned = plan.report.step * plan.resolved.rows_per_step
        self._given = 0

    def __iter__(self) -> Iterator[Features]:
        """All passes, one after the other."""
        self._given = 0
        for number in count():
            draw = np.random.default_rng([self._spec.training.seed, number])
            for features in self._encoded(_shuffled(self._usable(number), self._held, draw), draw):
                self._given += 1
                yield features

    def _usable(self, number: int) -> Iterator[Row]:
        seen = skipped = 0
        for table in self._tables():
            self._breathe()
            rows = list(read_targets(self._spec, table))
            bad = self._bad(rows, is_reported=number == 0 and not skipped)
            yield from (row for place, row in enumerate(rows) if place not in bad)
            seen, skipped = seen + len(rows), skipped + len(bad)
        if seen == skipped:
            raise NoRows("train has no usable rows")
        if skipped and number == 0:
            self._report.note(f"{skipped} of {seen} train rows are skipped in each pass")

    def _bad(self, rows: list[Row], *, is_reported: bool) -> set[int]:
        spec, bad = self._spec, set[int]()
        for problem in row_problems(spec.task, "train", rows, spec.columns, self._resolved.labels or None):
            place = problem.row - 1
            located = replace(problem, row=cast("int", rows[place][ROW]))
            if spec.data.on_bad_row == "fail":
                raise BadRows.of([located], 1)
            if is_reported and not bad:
                self._report.note(f"unusable train rows are skipped; the first: {located}")
            bad.add(place)
        return bad

    def _encoded(self, rows: Iterable[Row], draw: np.random.Generator) -> Iterator[Features]:
        rest = iter(rows)
        while some := list(islice(rest, BATCH)):
            self._breathe()
            encoded = self._encoder.encode(some, "train")
            features = {
                name: values for name, values in encoded.items() if name != "truncated" and not name.startswith("_")
            }
            # The same types as from the Arrow file of a split that is not streamed.
            table = compact(features)
            sequences = cast("list[Features]", table.to_pylist())
            yield from (sequences[place] for place in self._order(table, draw))

    def _order(self, table: pa.Table, draw: np.random.Generator) -> list[int]:
        size = self._resolved.rows_per_step
        # Rows that complete the step that the rows before began.
        lead = min(-self._given % size, len(table))
        match self._resolved.batching:
            case "length":
                return by_length(lengths(table), size, draw, lead)
            case "no_duplicates":
                return without_duplicates(texts(table), size, draw, lead)
            case _:
                return draw.permutation(len(table)).tolist()

    def _breathe(self) -> None:
        self._report.alive()
        # After the first new row a step follows, and a checkpoint follows the step.
        if self._stop.is_set() and self._given <= self._learned:
            raise Stopped


def _shuffled(rows: Iterable[Row], size: int, draw: np.random.Generator) -> Iterator[Row]:
    held: list[Row] = []
    for row in rows:
        if len(held) < size:
            held.append(row)
            continue
        place = int(draw.integers(size))
        yield held[place]
        held[place] = row
    yield from (held[place] for place in draw.permutation(len(held)))
