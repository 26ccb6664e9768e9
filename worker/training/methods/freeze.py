"""Freezes the lower part of the model: the embeddings and the first layers, or everything but the head."""

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
    """Trains the upper part only. Checkpoints and the published model are whole."""

    may_round_frozen = False

    def begin(self, task: Task, base: Path, spec: JobSpec, labels: list[str]) -> tuple[Any, tuple[str, ...]]:
        """The pretrained model with its new head. Raises ModelConfigInvalid if nothing would be left to train."""
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

    def publishes_as_trained(self, spec: JobSpec) -> bool:
        """Always."""
        return True

    def export(self, plan: Plan, folder: Path) -> Path:
        """The checkpoint as it is."""
        return folder


def freeze(model: Any, layers: int | str, head: tuple[str, ...]) -> None:
    """Disable gradients of the body, or of the embeddings and the first layers of each stack.

    Randomly initialized parameters are always trained. Raises ModelConfigInvalid.
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
    # Including modules next to them, such as the norm of BERT's embeddings. A module inside a layer belongs to the layer.
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
