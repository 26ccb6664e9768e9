"""The lower part of the model stays as it is: the embeddings and the first layers, or all but the head."""

from pathlib import Path
from typing import Any, cast

import torch

from app.specs import JobSpec
from app.specs.training import FreezeMethod as FreezeSpec
from worker.training.errors import ModelConfigInvalid
from worker.training.planning.plan import Plan
from worker.training.tasks.protocol import Task

LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
"""Where configurations say how many layers there are."""


class FreezeMethod:
    """Training of the upper part alone; what is kept and published is whole."""

    def begin(self, task: Task, base: Path, spec: JobSpec, labels: list[str]) -> tuple[Any, tuple[str, ...]]:
        """The pretrained model with its new head. Raises ModelConfigInvalid where nothing would be left to tune."""
        model, head = task.build_model(base, spec, labels)
        freeze(model, cast("FreezeSpec", spec.training.method).layers, head)
        return model, head

    def base(self, plan: Plan) -> Any:
        """The pretrained model with its new head."""
        return plan.task.build_model(plan.base, plan.spec, plan.resolved.labels)[0]

    def load(self, plan: Plan, folder: Path, *, trainable: bool) -> Any:
        """The model, its lower part without gradients."""
        model = plan.task.load_model(folder, plan.spec)
        freeze(model, cast("FreezeSpec", plan.spec.training.method).layers, plan.head)
        return model

    def publish(self, plan: Plan, folder: Path) -> Path:
        """The checkpoint as it is."""
        return folder


def freeze(model: Any, layers: int | str, head: tuple[str, ...]) -> None:
    """Take the gradients off the body, or off the embeddings and the first layers of each stack.

    Newly made parameters are always tuned. Raises ModelConfigInvalid.
    """
    frozen = _body(model) if layers == "all" else _lower(model, int(layers))
    tuned = 0
    for name, weight in model.named_parameters():
        if id(weight) in frozen and name not in head:
            weight.requires_grad_(requires_grad=False)
        else:
            tuned += weight.numel()
    if not tuned:
        raise ModelConfigInvalid(
            "with this method nothing is left to tune: the head shares its weights with the embeddings",
            "Give training.method.layers a number of layers, or use the method lora.",
        )


def _body(model: Any) -> set[int]:
    return {id(weight) for weight in model.base_model.parameters()}


def _lower(model: Any, count: int) -> set[int]:
    stacks = _stacks(model)
    if not stacks or count > max(map(len, stacks)):
        there = max(map(len, stacks), default=0)
        raise ModelConfigInvalid(
            f"training.method.layers is {count}, and the model has {there} layers", "Freeze fewer layers."
        )
    lower = [*_embeddings(model.base_model, stacks), *(layer for stack in stacks for layer in list(stack)[:count])]
    return {id(weight) for module in lower for weight in module.parameters()}


def _embeddings(body: Any, stacks: list[Any]) -> list[Any]:
    # With what stands beside them in a module of their own, such as BERT's norm; what lies within a layer belongs to it.
    inner = {id(module) for stack in stacks for module in stack.modules()}
    found = [
        (name, module)
        for name, module in body.named_modules()
        if isinstance(module, torch.nn.Embedding) and id(module) not in inner
    ]
    parents = [body.get_submodule(name.rpartition(".")[0]) for name, _ in found]
    return [
        module if any(part is stack for stack in stacks for part in parent.modules()) else parent
        for parent, (_, module) in zip(parents, found, strict=True)
    ]


def _stacks(model: Any) -> list[Any]:
    sizes = {getattr(model.config, name, None) for name in LAYERS}
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) in sizes]
    # A list within a layer is no stack of layers.
    inner = {id(module) for stack in lists for layer in stack for module in layer.modules()}
    return [stack for stack in lists if id(stack) not in inner]
