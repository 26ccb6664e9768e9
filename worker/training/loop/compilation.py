"""Compiled layers (`torch.compile`), where a measured estimate says that compiling pays back within the job.

    steps without → time them → would it pay? → compile → steps with → time them → keep it, or undo it

Only the layers that a model repeats are compiled, all of them from one compilation, which takes a fraction of the time of a
whole model (https://docs.pytorch.org/tutorials/recipes/regional_compilation.html). What was measured is kept beside the
compiler's own cache, for later jobs of the same model and hardware on this worker.

A compiled layer rounds differently, and each attempt decides again. With `auto`, a run that was interrupted can therefore end with
slightly other weights where a GPU computes.
"""

import os
from collections.abc import Iterator
from typing import Any, Literal

import torch

from app.specs.resolved import Kernel
from worker.training.loop.compile_costs import CompileCost, CompileCosts
from worker.training.loop.pace import Pace
from worker.training.planning.plan import Plan

BACKEND = "inductor"
WARM_UP, TIMED = 5, 10
"""Steps that warm up before others are timed, and steps that are timed."""
GUESS = CompileCost(seconds=60.0, time_ratio=0.85)
"""What compiling is taken to cost and to give before this worker has measured it."""
LEAST_GAIN = 0.03
"""A smaller share of the time saved is no reason to keep compiled layers."""
FEWEST_LAYERS = 2
WITHOUT_LAYERS = "the model has no list of layers of one class"
Stage = Literal["warming up", "timing", "compiling", "timing compiled", "decided"]


class Compilation:
    """Compiles the layers of a model in training, or says why not."""

    def __init__(self, plan: Plan, model: Any, pace: Pace) -> None:
        self._plan, self._pace = plan, pace
        self.layers = list(repeated_layers(model))
        self._costs = CompileCosts(plan.compile_cache, model)
        self._steps = 0
        self._began, self._work, self._eager = 0.0, 0.0, 0.0
        self._stage: Stage = "decided"
        self.kernel = Kernel(name="torch_compile", used=False, reason="its gain is measured in the first steps")
        match plan.spec.training.compile:
            case "always" if not self.layers:
                self._decide(used=False, reason=WITHOUT_LAYERS)
            case "always":
                self._compile()
                self._decide(used=True, reason="training.compile asks for it")
            case "never":
                self._decide(used=False, reason="training.compile asks for none")
            case "auto":
                barred = _barred(plan, self.layers)
                if barred is None:
                    self._stage = "warming up"
                else:
                    self._decide(used=False, reason=barred)

    def after_step(self) -> None:
        """After each step: time it, and decide once enough are timed."""
        if self._stage == "decided":
            return
        self._steps += 1
        self._work += self._pace.work_of_last_step
        if self._steps < (TIMED if self._stage.startswith("timing") else WARM_UP):
            return
        seconds, work = self._lap()
        match self._stage:
            case "warming up":
                self._stage = "timing"
            case "timing":
                self._eager = seconds / work
                self._compile_if_it_pays()
            case "compiling":
                self._compile_seconds = max(0.0, seconds - work * self._eager)
                self._pace.counts_steps = True
                self._stage = "timing compiled"
            case "timing compiled":
                self._keep_or_undo(seconds / work)

    def _compile_if_it_pays(self) -> None:
        cost, left = self._costs.known() or GUESS, self._pace.step_seconds_left
        saved = left * (1 - cost.time_ratio)
        if saved <= cost.seconds:
            reason = f"compiling takes about {cost.seconds:.0f} s and would save {max(0.0, saved):.0f} s of the {left:.0f} s left"
            self._decide(used=False, reason=reason)
            return
        self._compile()
        self._pace.counts_steps = False
        self.kernel = Kernel(name="torch_compile", used=True, reason="whether it is faster is still being measured")
        self._stage = "compiling"

    def _keep_or_undo(self, compiled: float) -> None:
        ratio = compiled / self._eager
        self._costs.keep(CompileCost(seconds=self._compile_seconds, time_ratio=ratio))
        measured = f"compiled steps took {ratio:.2f} times as long, and compiling took {self._compile_seconds:.0f} s"
        if ratio <= 1 - LEAST_GAIN:
            self._pace.forget_steps()
            self._decide(used=True, reason=measured)
            return
        for layer in self.layers:
            layer._compiled_call_impl = None  # noqa: SLF001 - what `Module.compile` sets; torch has no way to undo it
        self._decide(used=False, reason=measured)

    def _compile(self) -> None:
        if self._plan.compile_cache is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self._plan.compile_cache)
        # A layer that cannot be compiled, or a machine without a compiler, must not end the job.
        torch._dynamo.config.suppress_errors = True  # noqa: SLF001 - the documented name
        for layer in self.layers:
            layer.compile(dynamic=True, backend=BACKEND)

    def _lap(self) -> tuple[float, float]:
        """Seconds and work since the last lap."""
        if self._plan.resolved.device == "cuda":
            torch.cuda.synchronize()
        now = self._pace.training_seconds
        lap = now - self._began, self._work
        self._began, self._work, self._steps = now, 0.0, 0
        return lap

    def _decide(self, *, used: bool, reason: str) -> None:
        self._stage = "decided"
        self.kernel = Kernel(name="torch_compile", used=used, reason=reason)


def repeated_layers(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The layers of each outermost list of layers of one class, such as those of an encoder and those of a decoder."""
    for child in model.children():
        is_list = isinstance(child, torch.nn.ModuleList) and len(child) >= FEWEST_LAYERS
        if is_list and len({type(layer) for layer in child.children()}) == 1:
            yield from child.children()
        else:
            yield from repeated_layers(child)


def _barred(plan: Plan, layers: list[torch.nn.Module]) -> str | None:
    if plan.resolved.device != "cuda":
        return "on a CPU it took 40 to 100 s to compile and gained at most 5 %"
    if not layers:
        return WITHOUT_LAYERS
    if plan.spec.training.gradient_checkpointing:
        return "activations are recomputed (training.gradient_checkpointing)"
    if plan.spec.training.method.type == "qlora":
        return "layers in 4 bits break up what would be compiled"
    return None
