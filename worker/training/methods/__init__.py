"""The methods by the `training.method.type` of the spec."""

from pathlib import Path
from typing import Any

import torch

from worker.training.methods.freeze import FreezeMethod
from worker.training.methods.full import FullMethod
from worker.training.methods.lora import ADAPTER, LoraMethod, QloraMethod
from worker.training.methods.protocol import Method
from worker.training.models import attention
from worker.training.models.dropout import use_fast_dropout
from worker.training.models.embedding import use_lasting_gradients
from worker.training.models.frozen import round_frozen
from worker.training.planning.plan import Plan

METHODS: dict[str, Method] = {
    "full": FullMethod(),
    "freeze": FreezeMethod(),
    "lora": LoraMethod(),
    "qlora": QloraMethod(),
}


def load_trainable(plan: Plan) -> Any:
    """The model that training begins or goes on with. Raises ModelRefused or ModelConfigInvalid."""
    model = plan.initial.take()
    method = METHODS[plan.spec.training.method.type]
    if model is None:
        model = method.load(plan, plan.initial.folder, trainable=True)
    if plan.resolved.precision == "bf16" and method.may_round_frozen:
        round_frozen(model)
    attention.register()
    if plan.resolved.device == "cpu":
        use_fast_dropout(model)
        use_lasting_gradients(model)
    elif plan.spec.training.precision != "fp32":
        # TF32 where the hardware has it: https://docs.pytorch.org/docs/stable/notes/cuda.html#tf32-on-ampere
        torch.set_float32_matmul_precision("high")
    return model


def load_published(plan: Plan, folder: Path) -> Any:
    """A model as it is published, or a checkpoint, on the plan's device. Raises ModelRefused."""
    if (folder / ADAPTER).is_file():
        return METHODS[plan.spec.training.method.type].load(plan, folder, trainable=False).to(plan.resolved.device)
    return plan.task.load_model(folder, plan.spec).to(plan.resolved.device)


def publishes_as_trained(plan: Plan) -> bool:
    """Whether an evaluation in training holds for what is published."""
    return METHODS[plan.spec.training.method.type].publishes_as_trained(plan.spec)


def export(plan: Plan, folder: Path) -> Path:
    """The folder to publish for the checkpoint in `folder`."""
    return METHODS[plan.spec.training.method.type].export(plan, folder)


__all__ = ["METHODS", "Method", "export", "load_published", "load_trainable", "publishes_as_trained"]
