"""Compiled layers: asked for, left out, tried and kept or undone. The compiler here is the one that needs no C++."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    T5Config,
    T5Model,
)

from app.specs import JobSpec
from worker.training.loop import compilation
from worker.training.loop.compilation import Compilation, repeated_layers
from worker.training.loop.compile_costs import CompileCost, CompileCosts

Make = Callable[..., JobSpec]
Train = Callable[..., Any]
FREE = CompileCost(seconds=0.0, time_ratio=0.0)


@pytest.fixture(autouse=True)
def _without_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")


def compiler(done: Any) -> Any:
    return next(kernel for kernel in done.resolved.kernels if kernel.name == "torch_compile")


def asked(spec: Make, engine: str, compile_: str, **training: Any) -> JobSpec:
    parts = {"engine": engine, "compile": compile_, "epochs": 8, "max_steps": 40, **training}
    return spec(training=parts, checkpoints={"strategy": "none"})


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_compiled_layers_learn_and_are_published_under_their_own_names(spec: Make, train: Train, engine: str) -> None:
    done = train(asked(spec, engine, "always"))
    assert done.result["status"] == "succeeded", done.result
    assert (compiler(done).used, compiler(done).reason) == (True, "training.compile asks for it")
    loss = done.series("loss")
    assert loss[max(loss)] < loss[1]
    plain = train(asked(spec, engine, "never"), "plain")
    assert compiler(plain).reason == "training.compile asks for none"
    for step, value in plain.series("loss").items():
        assert loss[step] == pytest.approx(value, rel=1e-3)
    tuned = AutoModelForSequenceClassification.from_pretrained(done.out_dir / "model", output_loading_info=True)[1]
    assert not tuned["missing_keys"]
    assert not tuned["unexpected_keys"]


def test_on_a_cpu_nothing_is_compiled_unless_asked_for(spec: Make, train: Train) -> None:
    found = compiler(train(asked(spec, "pytorch", "auto")))
    assert not found.used
    assert found.reason.startswith("on a CPU")


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
@pytest.mark.parametrize(("least_gain", "is_kept"), [(-1e9, True), (1.0, False)])
def test_what_was_tried_is_kept_only_if_it_is_faster(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch, engine: str, least_gain: float, is_kept: bool
) -> None:
    monkeypatch.setattr(compilation, "_barred", lambda *_: None)
    monkeypatch.setattr(compilation, "GUESS", FREE)
    monkeypatch.setattr(compilation, "LEAST_GAIN", least_gain)
    seen: list[Compilation] = []
    begin = Compilation.__init__
    monkeypatch.setattr(Compilation, "__init__", lambda self, *parts: begin(self, *parts) or seen.append(self))
    done = train(asked(spec, engine, "auto"))
    assert done.result["status"] == "succeeded", done.result
    found = compiler(done)
    assert found.used == is_kept
    assert "compiled steps took" in found.reason
    layers = seen[0].layers
    assert layers
    assert {vars(layer).get("_compiled_call_impl") is not None for layer in layers} == {is_kept}


def test_what_would_not_pay_back_is_not_tried(spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_barred", lambda *_: None)
    found = compiler(train(asked(spec, "pytorch", "auto")))
    assert not found.used
    assert found.reason.startswith("compiling takes about 60 s and would save 0 s")


def test_a_model_without_such_layers_is_not_said_to_be_compiled(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "repeated_layers", lambda _: iter(()))
    found = compiler(train(asked(spec, "pytorch", "always")))
    assert (found.used, found.reason) == (False, "the model has no list of layers of one class")


def test_a_run_that_ends_while_it_is_measured_says_that_its_layers_are_compiled(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "_barred", lambda *_: None)
    monkeypatch.setattr(compilation, "GUESS", FREE)
    found = compiler(train(asked(spec, "pytorch", "auto", max_steps=18)))
    assert (found.used, found.reason) == (True, "whether it is faster is still being measured")


def test_the_layers_of_an_encoder_and_of_a_decoder_are_found_once_each() -> None:
    sizes: dict[str, Any] = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 3, "num_heads": 2, "vocab_size": 16}
    assert len(list(repeated_layers(T5Model(T5Config(**sizes))))) == 6
    assert list(repeated_layers(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))) == []


def test_a_measurement_holds_for_later_models_of_the_same_kind(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
    one, same = (BertForSequenceClassification(BertConfig(hidden_size=8, **sizes)) for _ in range(2))
    wider = BertForSequenceClassification(BertConfig(hidden_size=16, **sizes))
    assert CompileCosts(tmp_path, one).known() is None
    CompileCosts(tmp_path, one).keep(CompileCost(12.0, 0.7))
    assert CompileCosts(tmp_path, same).known() == CompileCost(12.0, 0.7)
    assert CompileCosts(tmp_path, wider).known() is None
    assert CompileCosts(None, one).known() is None
    next(tmp_path.iterdir()).write_text('{"seconds": 3}')
    assert CompileCosts(tmp_path, one).known() is None
