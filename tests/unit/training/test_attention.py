"""Attention with dropout, block by block: the same as the unfused one with the same mask."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from worker.training.models import attention
from worker.training.models.attention import attention_forward, dropout_attention

SHAPES = {
    "several rows in a block": (5, 4, 33, 33, 8),
    "some heads of a row": (2, 5, 40, 48, 8),
    "some queries of a head": (2, 2, 70, 90, 8),
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_BYTES", 40_000)


def tensors(shape: tuple[int, ...]) -> list[torch.Tensor]:
    rows, heads, queries, keys, size = shape
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(rows, heads, tokens, size, generator=draw).requires_grad_() for tokens in (queries, keys, keys)]


def kept_of(shape: tuple[int, ...], dropout: float) -> torch.Tensor:
    """The mask that is drawn next: that of a query of zeros, which gives each key the same share."""
    rows, heads, queries, keys, _ = shape
    shares = torch.zeros(rows, heads, queries, keys)
    state = torch.get_rng_state()
    value = torch.eye(keys).expand(rows, heads, keys, keys)
    shares = dropout_attention(
        torch.zeros(rows, heads, queries, 1), torch.zeros(rows, heads, keys, 1), value, None, 1.0, dropout
    )
    torch.set_rng_state(state)
    return shares > 0


def unfused(query: Any, key: Any, value: Any, mask: Any, scale: float, kept: Any, dropout: float) -> torch.Tensor:
    scores = query @ key.transpose(-1, -2) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) * kept / (1 - dropout)) @ value


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["no mask", "padding", "numbers"])
def test_it_is_the_unfused_attention_forward_and_backward(shape: tuple[int, ...], kind: str) -> None:
    rows, _, queries, keys, _ = shape
    seen = torch.arange(keys)[None] < torch.linspace(3, keys, rows).long()[:, None]
    masks = {
        "no mask": None,
        "padding": seen[:, None, None].expand(rows, 1, queries, keys),
        "numbers": torch.randn(1, shape[1], queries, keys),
    }
    mask, dropout, scale = masks[kind], 8192 / 65536, 0.3
    torch.manual_seed(7)
    kept = kept_of(shape, dropout)
    ours, theirs = tensors(shape), tensors(shape)
    output = dropout_attention(*ours, mask, scale, dropout)
    expected = unfused(*theirs, mask, scale, kept, dropout)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    given = torch.randn_like(expected)
    output.backward(given)
    expected.backward(given)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_the_right_share_is_dropped_independently(dropout: float) -> None:
    kept = kept_of((4, 4, 100, 250, 1), dropout).numpy()
    count = kept.size
    sigma = math.sqrt(dropout * (1 - dropout) / count)
    assert abs((1 - kept.mean()) - dropout) < 5 * sigma
    flat = kept.ravel().astype(float) - kept.mean()
    for lag in (1, 2, 8, 250):
        assert abs(np.mean(flat[:-lag] * flat[lag:]) / flat.var()) < 5 / math.sqrt(count)


def test_the_mask_follows_from_the_random_state() -> None:
    torch.manual_seed(3)
    first, second = kept_of((*SHAPES["some heads of a row"][:4], 1), 0.1), torch.get_rng_state()
    query, key, value = tensors(SHAPES["some heads of a row"])
    one = dropout_attention(query, key, value, None, None, 0.1)
    other = dropout_attention(query, key, value, None, None, 0.1)
    assert not torch.equal(one, other)
    torch.set_rng_state(second)
    assert torch.equal(dropout_attention(query, key, value, None, None, 0.1), one)
    assert first.any()


def test_models_of_transformers_use_it_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    attention.register()
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = AutoModelForSequenceClassification.from_config(config)
    assert model.config._attn_implementation == "sdpa"  # noqa: SLF001 - there is no public name
    used: list[torch.Size] = []
    whole = attention.dropout_attention
    monkeypatch.setattr(attention, "dropout_attention", lambda *given: used.append(given[0].shape) or whole(*given))
    inputs = {"input_ids": torch.arange(12).view(2, 6), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    model.train()(**inputs)["logits"].sum().backward()
    assert used == [(2, 2, 6, 8)]
    model.eval()(**inputs)
    assert len(used) == 1


def test_what_it_cannot_do_is_left_to_torch() -> None:
    query, key, value = tensors((1, 2, 5, 5, 8))
    bias = torch.zeros(1, 2, 5, 5, requires_grad=True)
    module = torch.nn.Module()
    attention_forward(module, query, key, value, bias, dropout=0.1)[0].sum().backward()
    assert bias.grad is not None
