"""Which code computed the first step of an attempt, and why nothing faster did: `resolved.attention` and `resolved.kernels`."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from app.specs import JobSpec, Resolved
from app.specs.resolved import Attention, Kernel
from worker.training.models.attention import REFUSALS, UNPACKED, ran
from worker.training.models.dropout import Dropout
from worker.training.planning.plan import Plan

TF32_CAPABILITY = (8, 0)
"""Ampere: https://docs.pytorch.org/docs/stable/notes/cuda.html#tf32-on-ampere."""


class Decider(Protocol):
    """Decides on a faster way to compute."""

    @property
    def kernel(self) -> Kernel | None:
        """What it has decided so far, and why; None if there is nothing to decide on this device."""
        ...


class CodePaths:
    """Reports what computes a model. `model` is None where TensorFlow does.

    What the `deciders` say about their kernels may change after the first step. None says that there is nothing to say.
    """

    def __init__(self, plan: Plan, model: Any, deciders: Sequence[Decider] = ()) -> None:
        self._plan, self._model, self._deciders = plan, model, deciders
        self._reported: list[Kernel] | None = None

    def report(self) -> None:
        """After a step: add to what was resolved what computed the step, once and when a decision changes."""
        decided = [decider.kernel for decider in self._deciders if decider.kernel is not None]
        if decided != self._reported:
            found = with_code_paths(self._plan.resolved, self._plan.spec, self._model, decided)
            self._plan.report.resolved(found.model_dump(mode="json"))
            self._reported = decided


def with_code_paths(resolved: Resolved, spec: JobSpec, model: Any, decided: Sequence[Kernel]) -> Resolved:
    """What was resolved, with what has computed this model in this process, or TensorFlow's model elsewhere (None)."""
    if model is None:
        eager = Attention(name="eager", reason="the TensorFlow models of transformers have no other")
        return resolved.model_copy(update={"attention": eager, "kernels": []})
    kernels = [
        _optimizer(spec),
        _dropout(resolved, model),
        _matmul(resolved, spec),
        _frozen(resolved, spec, model),
        *decided,
    ]
    return resolved.model_copy(
        update={"attention": _attention(resolved, spec, model), "kernels": [known for known in kernels if known]}
    )


def _attention(resolved: Resolved, spec: JobSpec, model: Any) -> Attention:
    chosen = str(getattr(model.config, "_attn_implementation", None) or "eager")
    if spec.model.attn_implementation != "auto":
        return Attention(name=chosen, reason="model.attn_implementation asks for it")
    if chosen != "sdpa":
        return Attention(name=chosen, reason=f"transformers has no faster attention for {model.config.model_type}")
    if ran.packed:
        return Attention(name="packed", reason="packed rows are computed one by one, without a mask between them")
    if ran.unpacked and not ran.blockwise:
        refused = " and ".join(UNPACKED[why] for why in sorted(ran.unpacked))
        return Attention(name=chosen, reason=f"packed rows could not be computed one by one: {refused}")
    if resolved.device != "cpu":
        return Attention(name=chosen, reason="torch chooses its fastest kernel for padded batches")
    return _attention_on_cpu(model)


def _attention_on_cpu(model: Any) -> Attention:
    if not ran.interface:
        return Attention(name="sdpa", reason=f"{model.config.model_type} computes its attention itself")
    if ran.blockwise:
        return Attention(name="blockwise", reason="torch has no fused attention with dropout for a CPU")
    if ran.refusals:
        refused = " and ".join(REFUSALS[why] for why in sorted(ran.refusals))
        return Attention(name="sdpa", reason=f"attention with dropout could not be computed block by block: {refused}")
    return Attention(name="sdpa", reason="without dropout, torch has a fused attention for a CPU")


def _optimizer(spec: JobSpec) -> Kernel:
    name, is_fused = spec.training.optimizer, spec.training.optimizer == "adamw"
    reason = "one kernel updates all weights" if is_fused else f"{name} has none here; adamw has one"
    return Kernel(name="fused_optimizer", used=is_fused, reason=reason)


def _dropout(resolved: Resolved, model: Any) -> Kernel | None:
    if resolved.device != "cpu":
        return None
    probabilities = [module.p for module in model.modules() if isinstance(module, Dropout)]
    is_used = any(probabilities)
    reason = "its random numbers come from a faster generator" if is_used else "the model has no dropout"
    return Kernel(name="fast_dropout", used=is_used, reason=reason)


def _matmul(resolved: Resolved, spec: JobSpec) -> Kernel | None:
    if resolved.device == "cpu":
        return None
    if spec.training.precision == "fp32":
        return Kernel(name="tf32", used=False, reason="training.precision asks for 32 bits")
    if torch.cuda.get_device_capability() < TF32_CAPABILITY:
        return Kernel(name="tf32", used=False, reason="the GPU does not have it")
    return Kernel(name="tf32", used=True, reason="products of 32-bit matrices may round to it")


def _frozen(resolved: Resolved, spec: JobSpec, model: Any) -> Kernel | None:
    if spec.training.method.type != "lora":
        return None
    is_used = any(weight.dtype == torch.bfloat16 and not weight.requires_grad for weight in model.parameters())
    reason = "autocast would round them in each pass" if is_used else f"the precision is {resolved.precision}"
    return Kernel(name="frozen_weights_in_bf16", used=is_used, reason=reason)
