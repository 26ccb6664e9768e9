"""What a job says about the code that computed it."""

from collections.abc import Callable
from typing import Any

import pytest

from app.specs import JobSpec
from worker.training.loop.code_paths import with_code_paths
from worker.training.methods import load_trainable
from worker.training.models import attention
from worker.training.planning.plan import Plan

Make = Callable[..., JobSpec]
Train = Callable[..., Any]
DROPOUT = "attention_probs_dropout_prob"
BRIEF: dict[str, Any] = {"data": {"eval": None}, "checkpoints": {"strategy": "none"}}


def short(spec: Make, engine: str, **parts: Any) -> JobSpec:
    return spec(**BRIEF, **{**parts, "training": {"engine": engine, "max_steps": 2, **parts.get("training", {})}})


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
@pytest.mark.parametrize(
    ("model", "name", "says"),
    [
        ({"config": {DROPOUT: 0.1}}, "blockwise", "no fused attention with dropout"),
        ({"config": {DROPOUT: 0.0}}, "sdpa", "without dropout"),
        ({"attn_implementation": "eager"}, "eager", "asks for it"),
    ],
)
def test_a_job_names_the_attention_that_ran_and_why(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch, engine: str, model: dict[str, Any], name: str, says: str
) -> None:
    used: set[str] = set()
    blockwise, fused = attention.dropout_attention, attention.sdpa_attention_forward

    def noting(known: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **more: used.add(known) or function(*args, **more)

    monkeypatch.setattr(attention, "dropout_attention", noting("blockwise", blockwise))
    monkeypatch.setattr(attention, "sdpa_attention_forward", noting("sdpa", fused))
    done = train(short(spec, engine, model={"id": "local:tiny", **model}))
    assert done.resolved.attention.name == name
    assert says in done.resolved.attention.reason
    assert used == ({name} if name != "eager" else set())


def test_a_mask_that_cannot_be_computed_block_by_block_is_named(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_refusal", lambda *_: "mask")
    done = train(short(spec, "pytorch", model={"id": "local:tiny", "config": {DROPOUT: 0.1}}))
    assert done.resolved.attention.name == "sdpa"
    assert "the mask is not that of a padded batch" in done.resolved.attention.reason


def test_a_model_that_does_not_ask_transformers_for_its_attention_is_named(
    spec: Make, plan: Callable[[JobSpec], Plan]
) -> None:
    ready = plan(short(spec, "pytorch"))
    model = load_trainable(ready)
    # No forward pass has gone through the interface since the model was loaded.
    found = with_code_paths(ready.resolved, ready.spec, model, [])
    assert found.attention is not None
    assert found.attention.reason == "bert computes its attention itself"


@pytest.mark.parametrize(
    ("training", "config", "used"),
    [
        ({}, {"hidden_dropout_prob": 0.1}, {"fused_optimizer", "fast_dropout"}),
        ({"optimizer": "sgd"}, {"hidden_dropout_prob": 0.0, DROPOUT: 0.0}, set()),
    ],
)
def test_a_job_lists_the_faster_ways_and_which_of_them_ran(
    spec: Make, train: Train, training: dict[str, Any], config: dict[str, Any], used: set[str]
) -> None:
    done = train(short(spec, "pytorch", model={"id": "local:tiny", "config": config}, training=training))
    kernels = {kernel.name: kernel for kernel in done.resolved.kernels}
    assert kernels.keys() == {"fused_optimizer", "fast_dropout", "torch_compile"}
    assert {name for name, kernel in kernels.items() if kernel.used} == used
    assert all(kernel.reason for kernel in kernels.values())
    assert [record["resolved"]["attention"] is None for record in done.of("resolved")] == [True, False]
