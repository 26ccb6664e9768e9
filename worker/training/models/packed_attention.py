"""Attention of rows that are packed into one sequence, each of them computed alone.

A mask that keeps packed rows apart makes torch compute all scores between them and throw them away, and takes its fastest
kernels from it. Here no such score is computed: a GPU runs FlashAttention over sequences of varying lengths
(https://docs.pytorch.org/docs/stable/nn.attention.varlen.html), a CPU computes one row after the other.
"""

from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from worker.training.models.uncompiled import uncompiled

Tensor = torch.Tensor
BOUNDARIES = "cu_seq_lens_q"
"""What transformers calls the boundaries of packed rows on their way to the attention function."""


def boundaries_of(positions: list[list[int]], width: int) -> Tensor:
    """Where rows begin in a batch of sequences of `width` tokens, counted over all its tokens, and where the last one ends.

    `positions` restart at 0 with each row. The padding of a sequence counts as one more row. Returns int32 (rows + 1,).
    """
    begins = [
        number * width + place
        for number, sequence in enumerate(positions)
        for place in [*(place for place, step in enumerate(sequence) if step == 0), *_padding(sequence, width)]
    ]
    return torch.tensor([*begins, len(positions) * width], dtype=torch.int32)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float | None, *, causal: bool
) -> Tensor:
    """Query, key and value (sequences, heads, tokens, size) → (sequences, tokens, heads, size). Key heads may be fewer."""
    sequences, heads, tokens, _ = query.shape
    shares_heads = heads != key.shape[1]
    if query.device.type == "cpu":
        whole = _row_by_row(query, key, value, boundaries.tolist(), scale, causal=causal, shares_heads=shares_heads)
    else:
        query, key, value = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
        whole: Any = varlen_attn(
            query,
            key,
            value,
            boundaries,
            boundaries,
            tokens,
            tokens,
            scale=scale,
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=shares_heads,
        )
    return whole.view(sequences, tokens, heads, value.shape[-1])


def refusal(query: Tensor, dropout: float, more: dict[str, Any]) -> str | None:
    """Why packed rows cannot be computed alone here, a key of `attention.UNPACKED`; None if they can."""
    if dropout > 0:
        return "dropout"
    if query.device.type != "cpu" and query.dtype not in {torch.bfloat16, torch.float16}:
        return "dtype"
    window = more.get("sliding_window")
    if window is not None and window < query.shape[2]:
        return "window"
    if any(more.get(name) is not None for name in ("position_bias", "softcap", "s_aux", "cache")):
        return "extras"
    return None


def _padding(sequence: list[int], width: int) -> list[int]:
    return [len(sequence)] if len(sequence) < width else []


@uncompiled
def _row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: list[int],
    scale: float | None,
    *,
    causal: bool,
    shares_heads: bool,
) -> Tensor:
    query, key, value = (tensor.transpose(0, 1).flatten(1, 2)[None] for tensor in (query, key, value))
    rows = [
        scaled_dot_product_attention(
            query[:, :, begin:end],
            key[:, :, begin:end],
            value[:, :, begin:end],
            is_causal=causal,
            scale=scale,
            enable_gqa=shares_heads,
        )
        for begin, end in pairwise(bounds)
    ]
    return torch.cat(rows, dim=2)[0].transpose(0, 1).contiguous()
