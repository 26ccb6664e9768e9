"""Train as it comes from the hub: never whole, neither on disk nor in memory, and without end.

    rows → targets read, bad ones out → a seeded buffer → tokens, a thousand rows at a time → the engine, pass after pass

What comes out follows from the rows, the spec and the seed alone. A resumed run takes it from the beginning and skips
what it has learned: that is read again, and the batches after it are those of an undisturbed run.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any, cast

import numpy as np
from torch.utils.data import IterableDataset

from app.specs import JobSpec, Resolved
from app.specs.data import HubData
from app.specs.rows import row_problems
from worker.training.errors import BadRows, NoRows, Stopped
from worker.training.inputs.data import read_targets
from worker.training.inputs.table import BATCH, ROW, Row, Table
from worker.training.reports import Reporter
from worker.training.tasks.protocol import Features, Task
from worker.training.tokens.tokenization import compact


class Stream(IterableDataset[Features]):
    """The encoded rows of train, in another order each pass.

    Iterating raises BadRows, NoRows, RowTooLong and HubUnreachable, and Stopped until a row is given that is new to the model.
    """

    def __init__(
        self,
        tables: Callable[[], Iterator[Table]],
        task: Task,
        tokenizer: Any,
        spec: JobSpec,
        resolved: Resolved,
        report: Reporter,
        stop: threading.Event,
    ) -> None:
        self._tables, self._task, self._tokenizer = tables, task, tokenizer
        self._spec, self._resolved, self._report, self._stop = spec, resolved, report, stop
        self._held = cast("HubData", spec.data.train).shuffle_buffer
        self._learned = report.step * resolved.batch_size * resolved.gradient_accumulation
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
            rows = next(read_targets(self._spec, table).batches(len(table)))
            bad = self._bad(rows, is_told=number == 0 and not skipped)
            yield from (row for place, row in enumerate(rows) if place not in bad)
            seen, skipped = seen + len(rows), skipped + len(bad)
        if seen == skipped:
            raise NoRows("train has no usable rows")
        if skipped and number == 0:
            self._report.note(f"{skipped} of {seen} train rows are left out in each pass")

    def _bad(self, rows: list[Row], *, is_told: bool) -> set[int]:
        spec, bad = self._spec, set[int]()
        for problem in row_problems(spec.task, "train", rows, spec.columns, self._resolved.labels or None):
            place = problem.row - 1
            told = replace(problem, row=cast("int", rows[place][ROW]))
            if spec.data.on_bad_row == "fail":
                raise BadRows.of([told], 1)
            if is_told and not bad:
                self._report.note(f"unusable train rows are left out; the first: {told}")
            bad.add(place)
        return bad

    def _encoded(self, rows: Iterable[Row], draw: np.random.Generator) -> Iterator[Features]:
        rest = iter(rows)
        while some := list(islice(rest, BATCH)):
            self._breathe()
            made = self._task.encode(
                some, self._tokenizer, self._spec, self._resolved.labels, self._resolved.max_length, "train"
            )
            features = {name: values for name, values in made.items() if name != "cut" and not name.startswith("_")}
            # As they would come out of the file that other rows are kept in.
            sequences = cast("list[Features]", compact(features).to_pylist())
            yield from (sequences[place] for place in draw.permutation(len(sequences)))

    def _breathe(self) -> None:
        self._report.alive()
        # Once something new is given, a step follows, and after it comes the checkpoint.
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
