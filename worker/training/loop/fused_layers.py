"""Fused kernels for norms and gated layers, from Liger (https://github.com/linkedin/Liger-Kernel), after a parity check.

The first batch of an attempt is computed with and without them. They are used only if loss and gradients agree. Otherwise the
model is put back as it was. They need a GPU and the package `liger-kernel`, an optional extra of Tunesmith.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from app.specs.resolved import Kernel
from worker.training.planning.plan import Plan
from worker.training.tasks.protocol import Batch, TrainingStep

Apply = Callable[[Any], None]
LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-3, torch.float16: 2e-3}
GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""How far losses and gradients may be apart, relative to their sizes, by the type of number that computes."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAME = "liger"


class FusedLayers:
    """Fuses the layers of a model before its first step, or says why not. `kernel` is None on a CPU."""

    def __init__(self, plan: Plan, apply: Apply | None = None) -> None:
        self._dtype = DTYPES[plan.resolved.precision]
        self._apply, self.kernel = apply, None if apply is None else Kernel(name=NAME, used=False, reason="not checked")
        if apply is None and plan.resolved.device == "cuda":
            has_liger = find_spec("liger_kernel") is not None
            self._apply = _apply_liger if has_liger else None
            self.kernel = Kernel(name=NAME, used=False, reason="the package liger-kernel is not installed")

    def check(self, model: Any, batch: Batch, step: TrainingStep) -> None:
        """Before the first step, compare and decide. Later calls do nothing. Draws no random numbers of the training.

        Call it where autocast is as it is for the step.
        """
        apply, self._apply = self._apply, None
        if apply is None:
            return
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []

        def computed() -> "Fingerprint":
            with torch.random.fork_rng(devices):
                return Fingerprint(model, step(model, batch).loss_sum / batch.num_items)

        plain = computed()
        before = [(module, dict(vars(module))) for module in base.modules()]
        try:
            with _unchanged_classes(base):
                apply(base)
            reason = self._difference(plain, computed())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises, the job goes on without it
            reason = f"they failed: {type(error).__name__}: {error}"
        model.zero_grad()
        if reason is None and all(vars(module) == was for module, was in before):
            reason = f"there are none for {base.config.model_type}"
        if reason is not None:
            for module, was in before:
                vars(module).clear()
                vars(module).update(was)
        self.kernel = Kernel(
            name=NAME,
            used=reason is None,
            reason=reason or "loss and gradients of the first batch agree with the plain ones",
        )

    def _difference(self, plain: "Fingerprint", fused: "Fingerprint") -> str | None:
        loss, gradient = fused.apart_from(plain)
        # Not-a-number is never below a limit.
        if loss <= LOSS_TOLERANCE[self._dtype] and gradient <= GRADIENT_TOLERANCE[self._dtype]:
            return None
        return f"the loss of the first batch is {loss:.1e} and its gradient {gradient:.1e} away from the plain ones, relatively"


class Fingerprint:
    """A loss, and for each trained weight the size of its gradient and the gradient's product with random signs.

    The squared differences of these products add up, on average, to the squared distance of the gradients
    (Johnson and Lindenstrauss, 1984), so no gradient needs to be kept.
    """

    def __init__(self, model: Any, loss: torch.Tensor) -> None:
        self.loss = float(loss.detach())
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.squares, self.products = list[float](), list[float]()
        for number, gradient in enumerate(torch.autograd.grad(loss, weights, allow_unused=True)):
            if gradient is not None:
                draw = torch.Generator(gradient.device).manual_seed(number)
                signs = torch.randint(0, 2, gradient.shape, generator=draw, device=gradient.device, dtype=torch.int8)
                self.squares.append(float(gradient.float().pow(2).sum()))
                self.products.append(float((gradient.float() * (2 * signs - 1)).sum()))

    def apart_from(self, other: "Fingerprint") -> tuple[float, float]:
        """How far loss and gradients are apart from another's, relative to the other's sizes."""
        distance = sum((mine - theirs) ** 2 for mine, theirs in zip(self.products, other.products, strict=True))
        return abs(self.loss - other.loss) / abs(other.loss), math.sqrt(distance / sum(other.squares))


def _apply_liger(model: Any) -> None:
    """Only what is computed within a layer. Attention has its own kernels, and our step computes the loss."""
    from liger_kernel.transformers import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - an optional extra
        _apply_liger_kernel_to_instance,  # pyright: ignore[reportUnknownVariableType]
    )

    _apply_liger_kernel_to_instance(model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)


@contextmanager
def _unchanged_classes(model: Any) -> Iterator[None]:
    """Liger replaces classes of the model's module, too. Models that are loaded later must not be made of them."""
    module = sys.modules[type(model).__module__]
    was = dict(vars(module))
    try:
        yield
    finally:
        vars(module).update(was)
