"""Runs a few real steps before training and discards them. They measure time and memory, and give an ETA.

    the longest rows → peak memory     some rows drawn at random → seconds a step     eval rows → seconds an evaluation

An out-of-memory error that would come after an hour comes here in the first seconds. Training is not affected: these
steps use another copy of the model, and the random state is restored.
"""

import gc
import math
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from worker.training.errors import Stopped
from worker.training.evaluation.prediction import autocast, forward, gather, training_step
from worker.training.loop.feed import learned
from worker.training.loop.optimizers import optimizer_of
from worker.training.loop.state import TrainingState
from worker.training.methods import load_trainable
from worker.training.planning.plan import Plan
from worker.training.tokens.tokenization import lengths

BATCHES, SECONDS, SHARE = 12, 6.0, 0.1
"""The maximum number of drawn batches, the seconds after which no more are drawn, and the share of the run's batches to draw."""
FEWEST = 2
"""The minimum number of drawn batches. One batch alone may be an outlier."""
SAVED_BYTES = 1 << 30
"""Larger models are not saved for an estimate. Saving takes little time compared with their training."""


def profile(plan: Plan) -> None:
    """Report `preflight.steps` in the first attempt. Raises Stopped, and whatever the first real step would raise."""
    if not plan.is_first_attempt:
        return
    plan.report.phase("profiling")
    with torch.random.fork_rng(devices=[0] if plan.resolved.device == "cuda" else []):
        found = _Profiler(plan).run()
    gc.collect()
    if plan.resolved.device == "cuda":
        torch.cuda.empty_cache()
    plan.report.preflight(steps=found)


class _Profiler:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.rows = plan, learned(plan)
        self.model = load_trainable(plan).to(plan.resolved.device)
        if plan.spec.training.gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        self.optimizer = optimizer_of(plan.spec.training, self.model, plan.head)
        self.collate = plan.task.collate(plan.tokenizer, plan.spec, plan.resolved.max_length)
        self.step = training_step(plan)
        self.draw = np.random.default_rng(plan.spec.training.seed)

    def run(self) -> dict[str, Any]:
        with _peak(self.plan.resolved.device) as peak:
            longest = self._longest()
            # The first pass of a process warms up kernels and memory.
            first, update = self._pass(longest), self._update()
            slowest, update = self._pass(longest), self._update()
        passes = self._drawn()
        step = self.plan.resolved.gradient_accumulation * float(np.mean(passes)) + update
        # A phase of its own, because memory that runs out here needs smaller evaluation batches.
        self.plan.report.phase("profiling_evaluation")
        evaluation, saving = self._evaluation(), self._saving()
        state = TrainingState.begin(self.plan.spec, self.plan.resolved, self.plan.steps_per_epoch, self.plan.head)
        evaluations, saves = _cadence(state)
        return {
            "batches": len(passes),
            "first_seconds": round(first, 4),
            "step_seconds": round(step, 4),
            "longest_step_seconds": round(self.plan.resolved.gradient_accumulation * slowest + update, 4),
            "evaluation_seconds": round(evaluation, 4),
            "checkpoint_seconds": round(saving, 4),
            "peak_bytes": peak[0],
            # The published model is evaluated once more.
            "eta_seconds": round(state.total_steps * step + (evaluations + 1) * evaluation + saves * saving, 2),
        }

    def _longest(self) -> list[int]:
        tokens = lengths(self.plan.encoded["train"])
        return sorted(range(len(tokens)), key=lambda place: -tokens[place])[: self.plan.resolved.batch_size]

    def _drawn(self) -> list[float]:
        resolved, passes = self.plan.resolved, list[float]()
        size = min(resolved.batch_size, len(self.rows))
        most = min(BATCHES, max(FEWEST, int(SHARE * resolved.total_steps * resolved.gradient_accumulation)))
        began = time.perf_counter()
        while len(passes) < most and (len(passes) < FEWEST or time.perf_counter() - began < SECONDS):
            passes.append(self._pass([int(place) for place in self.draw.choice(len(self.rows), size, replace=False)]))
        self.optimizer.zero_grad()
        return passes

    def _pass(self, places: list[int]) -> float:
        if self.plan.stop.is_set():
            raise Stopped
        self.plan.report.alive()
        began = time.perf_counter()
        rows = [cast("dict[str, Any]", self.rows[place]) for place in places]
        batch = self.collate(rows).to(self.plan.resolved.device)
        self.model.train()
        with autocast(self.plan):
            loss = self.step(self.model, batch).loss_sum / max(1, batch.num_items)
        loss.backward()
        return self._since(began)

    def _update(self) -> float:
        began = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.spec.training.max_grad_norm)
        # With a learning rate of zero the whole update is computed, and the weights do not change.
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._since(began)

    def _evaluation(self) -> float:
        plan = self.plan
        seconds = 0.0
        for split in ("eval", "test"):
            if split not in plan.encoded:
                continue
            rows, size = len(plan.encoded[split]), plan.resolved.eval_batch_size
            count = min(rows, 2 * size)
            some = plan.encoded[split].select(sorted(self.draw.choice(rows, count, replace=False).tolist()))
            sample = replace(plan, encoded={**plan.encoded, split: some})
            began = time.perf_counter()
            gather(forward(self.model, sample, split, self.step), count)
            seconds += self._since(began) * rows / count
        return seconds

    def _saving(self) -> float:
        weights = sum(weight.numel() * weight.element_size() for weight in self.model.parameters())
        if weights > SAVED_BYTES:
            return 0.0
        folder = self.plan.scratch / "profiling"
        began = time.perf_counter()
        self.model.save_pretrained(folder)
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        seconds = self._since(began)
        shutil.rmtree(folder)
        return seconds

    def _since(self, began: float) -> float:
        if self.plan.resolved.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def _cadence(state: TrainingState) -> tuple[int, int]:
    spec, epochs = state.spec, math.ceil(state.total_steps / state.steps_per_epoch)

    def times(strategy: str, every: int | None) -> int:
        return {"none": 0, "epoch": epochs, "steps": math.ceil(state.total_steps / (every or 1))}[strategy]

    evaluations = times(spec.evaluation.strategy, spec.evaluation.every) if spec.evaluates else 0
    saves = max(times(spec.checkpoints.strategy, spec.checkpoints.every), 1)
    return evaluations + int(spec.evaluation.at_start and spec.evaluates), saves


@contextmanager
def _peak(device: str) -> Iterator[list[int]]:
    """Yields a list of one number. After the block it is the peak memory of the block in bytes."""
    held = [0]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield held
        held[0] = torch.cuda.max_memory_allocated()
        return
    try:
        # Linux forgets the peak of this process, so that what tokenizing took does not count (proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        yield held
        held[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return
    yield held
    lines = Path("/proc/self/status").read_text().splitlines()
    held[0] = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
