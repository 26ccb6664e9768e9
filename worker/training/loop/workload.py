"""How much work each step of a run is, before it is done: what an estimate of the remaining time is made of."""

from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from worker.training.loop.batching import passes_of_epoch
from worker.training.planning.plan import Plan
from worker.training.tokens.tokenization import lengths

Work = np.ndarray[Any, np.dtype[np.float64]]


class Workload:
    """Work in padded tokens, of which those of longer sequences count for more, because attention grows with the length.

    A stream has steps of unknown lengths, so each counts as one.
    """

    def __init__(self, plan: Plan, hidden_size: int | None) -> None:
        self._plan = plan
        # A token's attention costs as much as all else at about twice as many tokens as a hidden vector has numbers.
        self._even = 2 * hidden_size if hidden_size else np.inf
        self._of_epoch = lru_cache(maxsize=2)(self._steps)
        # Asked for each time progress is reported.
        self.of_evaluation = lru_cache(self._of_split)

    def of_step(self, step: int) -> float:
        """The work of a step, counted from 0."""
        if self._plan.is_streamed:
            return 1.0
        epoch, place = divmod(step, self._plan.steps_per_epoch)
        return float(self._of_epoch(epoch)[place])

    def remaining(self, step: int) -> float:
        """The work from a step, counted from 0, to the end of the run. Later epochs are as long as the present one."""
        total = self._plan.resolved.total_steps
        if self._plan.is_streamed:
            return float(total - step)
        epoch, place = divmod(step, self._plan.steps_per_epoch)
        steps = self._of_epoch(epoch)
        rest = min(len(steps) - place, total - step)
        later = total - step - rest
        return float(steps[place : place + rest].sum() + later * steps.mean())

    def _of_split(self, split: str) -> float:
        """The work of the forward passes over a split, which have little padding."""
        tokens = np.asarray(lengths(self._plan.encoded[split]))
        return float((tokens * (1 + tokens / self._even)).sum())

    def _steps(self, epoch: int) -> Work:
        passes = passes_of_epoch(self._plan, epoch)
        tokens = np.asarray(lengths(self._plan.encoded["train"]))[list(chain.from_iterable(passes))]
        rows = np.asarray([len(places) for places in passes])
        longest = np.maximum.reduceat(tokens, np.cumsum(rows) - rows)
        work = rows * longest * (1 + longest / self._even)
        return np.add.reduceat(work, range(0, len(work), self._plan.resolved.gradient_accumulation))
