"""How fast training goes: at most one progress record a second, and an estimate of what is left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.training.loop.course import Course
from worker.training.reports import Reporter

INTERVAL = 1.0


class Pace:
    """Counts training time only: what evaluation and saving take is left out of the speed."""

    def __init__(self, report: Reporter, course: Course, rows_per_step: int) -> None:
        self._report, self._course, self._rows_per_step = report, course, rows_per_step
        self._first_step = course.step
        self._started = self._last = time.monotonic()
        self._aside = 0.0
        self._told = False

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time spent in here is not training."""
        began = time.monotonic()
        yield
        self._aside += time.monotonic() - began

    def tick(self) -> None:
        """After a step: report progress if it is time, or the first or last step."""
        now, course = time.monotonic(), self._course
        if self._told and now - self._last < INTERVAL and not course.finished:
            return
        steps, spent = course.step - self._first_step, now - self._started - self._aside
        rate = steps / spent if spent > 0 else None
        self._report.progress(
            step=course.step,
            of=course.total_steps,
            epoch=round(course.epoch, 4),
            samples_per_second=round(rate * self._rows_per_step, 2) if rate else None,
            eta_seconds=round((course.total_steps - course.step) / rate, 1) if rate else None,
        )
        self._last, self._told = now, True
