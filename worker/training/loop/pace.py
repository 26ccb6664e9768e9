"""How fast training goes: at most one progress record a second, and an estimate of what is left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.training.loop.state import TrainingState
from worker.training.reports import Reporter

INTERVAL = 1.0


class Pace:
    """Counts training time only: what evaluation and saving take is left out of the speed."""

    def __init__(self, report: Reporter, state: TrainingState, rows_per_step: int) -> None:
        self._report, self._state, self._rows_per_step = report, state, rows_per_step
        self._first_step = state.step
        self._started = self._last = time.monotonic()
        self._aside = 0.0
        self._has_reported = False

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time spent in here is not training."""
        began = time.monotonic()
        yield
        self._aside += time.monotonic() - began

    def tick(self) -> None:
        """After a step: report progress if it is time, or the first or last step."""
        now, state = time.monotonic(), self._state
        if self._has_reported and now - self._last < INTERVAL and not state.finished:
            return
        steps, spent = state.step - self._first_step, now - self._started - self._aside
        rate = steps / spent if spent > 0 else None
        self._report.progress(
            step=state.step,
            of=state.total_steps,
            epoch=round(state.epoch, 4),
            samples_per_second=round(rate * self._rows_per_step, 2) if rate else None,
            eta_seconds=round((state.total_steps - state.step) / rate, 1) if rate else None,
        )
        self._last, self._has_reported = now, True
