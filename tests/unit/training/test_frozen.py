"""Frozen weights in bf16 compute what frozen weights in float32 do under autocast."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertForSequenceClassification, GPTNeoXConfig

from app.specs import JobSpec
from worker.training import methods
from worker.training.models.frozen import round_frozen
from worker.training.planning import resolve

LORA = {"type": "lora", "rank": 4, "alpha": 8.0, "export": "adapter"}


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_a_run_changes_no_byte(
    spec: Callable[..., JobSpec], train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    # Emulated here, and a hundred times slower than on hardware that has it. The model is tiny.
    monkeypatch.setattr(resolve, "_bf16_is_quick", lambda _: True)
    rounded: list[int] = []
    asked = spec(training={"engine": engine, "method": LORA, "precision": "bf16", "learning_rate": 0.05})

    def rounding(model: torch.nn.Module) -> None:
        rounded.append(round_frozen(model))

    monkeypatch.setattr(methods, "round_frozen", rounding)
    halves = train(asked, "halves")
    monkeypatch.setattr(methods, "round_frozen", lambda _: None)
    whole = train(asked, "whole")
    assert halves.result["status"] == whole.result["status"] == "succeeded"
    assert rounded[0] > 0
    assert ("frozen_weights_in_bf16", True) in [(kernel.name, kernel.used) for kernel in halves.resolved.kernels]
    assert halves.series("loss") == whole.series("loss")
    assert halves.series("eval_loss") == whole.series("eval_loss")
    adapters = [(run.out_dir / "model" / "adapter_model.safetensors").read_bytes() for run in (halves, whole)]
    assert adapters[0] == adapters[1]


def test_only_frozen_weights_of_linear_layers_are_rounded() -> None:
    model = BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    model.requires_grad_(requires_grad=False)
    model.classifier.requires_grad_()
    assert round_frozen(model) > 0
    kinds = {name: weight.dtype for name, weight in model.named_parameters()}
    assert kinds.pop("classifier.weight") == kinds.pop("classifier.bias") == torch.float32
    for name, kind in kinds.items():
        is_linear = "embeddings" not in name and "LayerNorm" not in name
        assert kind == (torch.bfloat16 if is_linear else torch.float32), name


def test_a_head_that_shares_the_embeddings_is_not_rounded() -> None:
    config = GPTNeoXConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).requires_grad_(requires_grad=False)
    round_frozen(model)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight.dtype == torch.bfloat16
