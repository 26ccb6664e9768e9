"""How fast training goes: at most one progress record a second, an estimate of what is left, and `preflight.steps`.

a step takes a + b * its work seconds        fitted to the steps so far (see `workload`)
remaining time = steps + evaluations + checkpoints to come
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from worker.training.loop.peak_memory import peak_bytes, reset_peak
from worker.training.loop.state import TrainingState
from worker.training.loop.workload import Workload
from worker.training.planning.plan import Plan

INTERVAL = 1.0
MEASURED_SHARE, FEWEST_STEPS = 0.05, 3
"""`preflight.steps` comes after this share of the steps, but at least after so many."""
FITTED_STEPS = 4
"""The fewest steps to which a line is fitted. Before, a step takes as long as its work says."""
FORWARD_SHARE = 1 / 3
"""The forward pass of a step, as a share: an evaluation's time before the first one."""
Aside = Literal["evaluation", "checkpoint"]


class Pace:
    """Counts training time. What evaluations and checkpoints take is counted apart.

    `process` is the pid of the process that computes, if it is not this one.
    """

    def __init__(
        self,
        plan: Plan,
        state: TrainingState,
        hidden_size: int | None,
        *,
        is_evaluated_again: bool,
        process: int | None = None,
    ) -> None:
        self._plan, self._report, self._state = plan, plan.report, state
        self._is_evaluated_again = is_evaluated_again and state.spec.evaluates
        self._workload = Workload(plan, hidden_size)
        self._fit, self._asides = Fit(), dict[str, list[float]]()
        self._started = self._last = self._last_tick = time.monotonic()
        self._first_step, self._first_seconds, self._aside = state.step, 0.0, 0.0
        self._has_reported, self._reported = False, dict[str, float]()
        self._process = process
        self.counts_steps = True
        """Whether the time of a step says how long others take. Set to False while steps compile."""
        reset_peak(plan.resolved.device, process)

    @contextmanager
    def aside(self, kind: Aside) -> Iterator[None]:
        """Time spent in here is not training."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._asides.setdefault(kind, []).append(seconds)
        self._aside += seconds
        self._last_tick += seconds
        if self._reported:
            self._report_steps()

    def tick(self) -> None:
        """After a step: report progress if it is time, or the first or last step."""
        now, state = time.monotonic(), self._state
        self._measure(now - self._last_tick)
        self._last_tick = now
        if self._has_reported and now - self._last < INTERVAL and not state.finished:
            return
        steps, spent = state.step - self._first_step, now - self._started - self._aside
        rate = steps / spent if spent > 0 else None
        self._report.progress(
            step=state.step,
            of=state.total_steps,
            epoch=round(state.epoch, 4),
            samples_per_second=round(rate * self._plan.rows_per_step, 2) if rate else None,
            # The final evaluation and the packaging that may follow are not training.
            eta_seconds=0.0 if state.finished else round(self.eta_seconds, 1),
        )
        self._last, self._has_reported = now, True

    @property
    def training_seconds(self) -> float:
        """The seconds since the first step began, without evaluations and checkpoints."""
        return time.monotonic() - self._started - self._aside

    @property
    def work_of_last_step(self) -> float:
        """The work of the step that has just ended."""
        return self._workload.of_step(self._state.step - 1)

    @property
    def step_seconds_left(self) -> float:
        """The estimated seconds of the steps to come, without evaluations and checkpoints."""
        state = self._state
        steps = state.total_steps - state.step
        return self._fit.seconds(steps, self._workload.remaining(state.step)) if steps else 0.0

    def forget_steps(self) -> None:
        """Estimate from the steps to come alone: from here on they take another time."""
        self._fit = Fit(self._fit.total)

    @property
    def eta_seconds(self) -> float:
        """The estimated seconds from here to the end of the job."""
        state = self._state
        evaluations = state.evaluations_left + int(self._is_evaluated_again)
        saves = state.checkpoints_left
        return (
            self.step_seconds_left
            + evaluations * self._seconds_of("evaluation")
            + saves * self._seconds_of("checkpoint")
            + self._seconds_of_test()
        )

    def _measure(self, seconds: float) -> None:
        state = self._state
        done = state.step - self._first_step
        if self.counts_steps:
            self._fit.add(self.work_of_last_step, seconds)
        if done == 1:
            self._first_seconds = seconds
        enough = max(FEWEST_STEPS, math.ceil(MEASURED_SHARE * state.total_steps))
        if self._plan.is_first_attempt and not self._reported and (done >= enough or state.finished):
            self._report_steps()

    def _report_steps(self) -> None:
        found = {
            "evaluation_seconds": self._seconds_of("evaluation"),
            "checkpoint_seconds": self._seconds_of("checkpoint"),
        }
        known = {name: len(seconds) for name, seconds in self._asides.items() if seconds}
        if self._reported and known.keys() <= self._reported.keys():
            return
        if not self._reported:
            self._steps = self._of_steps()
        self._reported = {"steps": 1.0, **known}
        self._report.preflight(steps={**self._steps, **{name: round(value, 4) for name, value in found.items()}})

    def _of_steps(self) -> dict[str, float | int | None]:
        state = self._state
        done = state.step - self._first_step
        longest = max(self._workload.of_step(step) for step in range(self._first_step, state.step))
        spent = sum(sum(seconds) for seconds in self._asides.values())
        return {
            "batches": done * self._plan.resolved.gradient_accumulation,
            "first_seconds": round(self._first_seconds, 4),
            "step_seconds": round(self._fit.seconds(1, self._workload.remaining(0) / state.total_steps), 4),
            "longest_step_seconds": round(self._fit.seconds(1, longest), 4),
            "peak_bytes": peak_bytes(self._plan.resolved.device, self._process),
            "eta_seconds": round(self._fit.total + spent + self.eta_seconds, 2),
        }

    def _seconds_of(self, kind: Aside) -> float:
        measured = self._asides.get(kind)
        if measured:
            return sum(measured) / len(measured)
        if kind == "checkpoint" or "eval" not in self._plan.encoded or self._plan.is_streamed:
            return 0.0
        return FORWARD_SHARE * self._fit.seconds(0, self._workload.of_evaluation("eval"))

    def _seconds_of_test(self) -> float:
        encoded = self._plan.encoded
        if "test" not in encoded:
            return 0.0
        if self._asides.get("evaluation"):
            return self._seconds_of("evaluation") * len(encoded["test"]) / len(encoded["eval"])
        # The work of a stream is counted in steps, not in tokens.
        return (
            0.0
            if self._plan.is_streamed
            else FORWARD_SHARE * self._fit.seconds(0, self._workload.of_evaluation("test"))
        )


def hidden_size(model: Any) -> int | None:
    """Numbers in a hidden vector of a model of transformers; None if its configuration has no such field."""
    return getattr(model.config.get_text_config(), "hidden_size", None)


@dataclass
class Fit:
    """Seconds as a line over work, by least squares, neither part of it negative."""

    total: float = 0.0
    """The seconds of all steps."""
    _first: tuple[float, float] | None = None
    _count: int = 0
    _works: float = 0.0
    _seconds: float = 0.0
    _squares: float = 0.0
    _products: float = 0.0

    def add(self, work: float, seconds: float) -> None:
        """Add a step."""
        self.total += seconds
        if self._first is None:
            self._first = work, seconds
            return
        self._count += 1
        self._works += work
        self._seconds += seconds
        self._squares += work * work
        self._products += work * seconds

    def seconds(self, steps: float, work: float) -> float:
        """The seconds of so many steps of so much work in all."""
        each, rate = self._line()
        return steps * each + work * rate

    def _line(self) -> tuple[float, float]:
        if not self._count:
            # The first step warms up kernels and memory, so it counts only while there is no other.
            work, seconds = self._first or (1.0, 0.0)
            return 0.0, seconds / work
        proportional = 0.0, self._seconds / self._works
        mean_work, mean_seconds = self._works / self._count, self._seconds / self._count
        spread = self._squares / self._count - mean_work**2
        if self._count < FITTED_STEPS or spread <= 1e-6 * mean_work**2:
            return proportional
        rate = (self._products / self._count - mean_work * mean_seconds) / spread
        if rate <= 0:
            return mean_seconds, 0.0
        each = mean_seconds - rate * mean_work
        return (each, rate) if each >= 0 else proportional
