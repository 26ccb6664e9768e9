"""Fused layers are used where loss and gradients agree with the plain ones, and leave no trace where they do not."""

import functools
import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch.nn.functional import layer_norm

from app.specs import JobSpec
from worker.training.engines import pytorch, trainer
from worker.training.loop.fused_layers import FusedLayers
from worker.training.methods import load_trainable
from worker.training.planning.plan import Plan

Make = Callable[..., JobSpec]
Train = Callable[..., Any]
Apply = Callable[[Any], None]


def norms(factor: float) -> Apply:
    """Layer norms in another way, their outputs multiplied; as Liger does, bound to the modules and put into the file."""

    def forward(self: Any, values: torch.Tensor) -> torch.Tensor:
        return factor * layer_norm(values, self.normalized_shape, self.weight, self.bias, self.eps)

    def apply(model: Any) -> None:
        sys.modules[type(model).__module__].BertLayer = None  # pyright: ignore[reportAttributeAccessIssue]
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.forward = MethodType(forward, module)

    return apply


def broken(model: Any) -> None:
    norms(1.0)(model)
    raise RuntimeError("no such instruction")


def tried(plan: Plan, apply: Apply) -> tuple[Any, FusedLayers]:
    """A model whose layers were checked with the first rows."""
    model = load_trainable(plan)
    model.train()
    batch = plan.task.collate(plan.tokenizer, plan.spec, 16)(
        [{name: value for name, value in plan.encoded["train"][row].items() if name[0] != "_"} for row in range(4)]
    )
    layers = FusedLayers(plan, apply)
    layers.check(model, batch, plan.task.training_step(plan.spec, plan.resolved.labels, plan.encoded["train"]))
    return model, layers


def is_patched(model: Any) -> bool:
    return any("forward" in vars(module) for module in model.modules())


def test_layers_that_agree_are_used_and_no_class_is_replaced(spec: Make, plan: Callable[[JobSpec], Plan]) -> None:
    model, layers = tried(plan(spec()), norms(1.0))
    assert layers.kernel is not None
    assert (layers.kernel.used, layers.kernel.name) == (True, "liger")
    assert is_patched(model)
    assert sys.modules[type(model).__module__].BertLayer is not None


@pytest.mark.parametrize(
    ("apply", "says"),
    [
        (norms(1.01), "the loss of the first batch is"),
        (norms(float("nan")), "the loss of the first batch is nan"),
        (broken, "they failed: RuntimeError: no such instruction"),
        (lambda _: None, "there are none for bert"),
    ],
)
def test_layers_that_do_not_agree_are_taken_back(
    spec: Make, plan: Callable[[JobSpec], Plan], apply: Apply, says: str
) -> None:
    model, layers = tried(plan(spec()), apply)
    assert layers.kernel is not None
    assert not layers.kernel.used
    assert says in layers.kernel.reason
    assert not is_patched(model)


def test_the_check_is_done_once(spec: Make, plan: Callable[[JobSpec], Plan]) -> None:
    applied: list[Any] = []
    ready = plan(spec())
    model, layers = tried(ready, applied.append)
    layers.check(model, None, None)  # pyright: ignore[reportArgumentType] - neither is looked at
    assert len(applied) == 1


@pytest.mark.parametrize(("engine", "module"), [("pytorch", pytorch), ("trainer", trainer)])
def test_a_check_that_fails_changes_no_byte_of_the_run(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch, engine: str, module: Any
) -> None:
    asked = spec(
        model={"id": "local:tiny", "config": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}},
        training={"engine": engine, "max_steps": 5},
    )
    plain = train(asked, "plain")
    assert "liger" not in {kernel.name for kernel in plain.resolved.kernels}
    monkeypatch.setattr(module, "FusedLayers", functools.partial(FusedLayers, apply=norms(1.01)))
    checked = train(asked, "checked")
    assert "liger" in {kernel.name for kernel in checked.resolved.kernels}
    assert checked.weights == plain.weights
    monkeypatch.setattr(module, "FusedLayers", functools.partial(FusedLayers, apply=norms(1.0)))
    fused = train(asked, "fused")
    assert next(kernel for kernel in fused.resolved.kernels if kernel.name == "liger").used
    for step, loss in plain.series("loss").items():
        assert fused.series("loss")[step] == pytest.approx(loss, rel=1e-4)
