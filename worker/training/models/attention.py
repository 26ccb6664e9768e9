"""The attention that models of transformers use in place of `sdpa`: packed rows alone, and dropout on a CPU block by block.

`torch.nn.functional.scaled_dot_product_attention` has no fused kernel for a CPU with dropout. It computes the scores, their
softmax, the mask and the product of both as whole tensors, of 100 MB each for 8 rows of 512 tokens and 12 heads, and keeps
them for the backward pass. This module does the same in blocks that fit into the cache, keeps the dropout mask as bits, and
computes the softmax again in the backward pass, as FlashAttention does (Dao et al., 2022, https://arxiv.org/abs/2205.14135).

    scores = query @ key^T * scale, masked
    output = (softmax(scores), some dropped) @ value / (1 - dropout)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import AttentionInterface

from worker.training.models import packed_attention
from worker.training.models.dropout import Kept
from worker.training.models.packed_attention import BOUNDARIES
from worker.training.models.uncompiled import uncompiled

Tensor = torch.Tensor
BLOCK_BYTES = 4 << 20
"""The scores of one block. With their softmax and their gradient they fit into the cache of two cores."""

REFUSALS = {
    "mask": "the mask is not that of a padded batch",
    "dtype": "it computes in 32 bits only",
    "heads": "several query heads share a key head",
    "extras": "the model adds a bias, a cache or a cap of its own",
}
"""Why dropout did not run block by block."""
UNPACKED = {
    "dropout": "the model has dropout in its attention",
    "dtype": "it computes in 16 bits only",
    "window": "the model attends to a window that is shorter than a sequence",
    "extras": "the model adds a bias, a cache or a cap of its own",
}
"""Why packed rows were not computed one by one."""


@dataclass
class Ran:
    """What computed the attention in this process since `register`."""

    interface: bool = False
    """Whether any attention went through the interface of transformers."""
    blockwise: bool = False
    refusals: set[str] = field(default_factory=set[str])
    packed: bool = False
    unpacked: set[str] = field(default_factory=set[str])


ran = Ran()


def register() -> None:
    """Let models of transformers that would use `sdpa` use this attention where it is faster, in this process."""
    AttentionInterface.register("sdpa", attention_forward)
    ran.interface = ran.blockwise = ran.packed = False
    ran.refusals.clear()
    ran.unpacked.clear()


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The attention function of transformers (`AttentionInterface`): query (rows, heads, tokens, size) → (rows, tokens, heads, size)."""
    ran.interface = True
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    boundaries = more.pop(BOUNDARIES, None)
    if boundaries is not None:
        unpacked = packed_attention.refusal(query, dropout, more)
        if unpacked is None:
            ran.packed = True
            return packed_attention.packed_attention(query, key, value, boundaries, scaling, causal=causal), None
        ran.unpacked.add(unpacked)
    refusal = _refusal(query, key, attention_mask, more) if dropout > 0 else None
    if refusal:
        ran.refusals.add(refusal)
    if dropout == 0 or refusal:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **more)
    ran.blockwise = True
    if causal and attention_mask is None and query.shape[2] > 1:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()[None, None]
    output = dropout_attention(query, key, value, attention_mask, scaling, dropout)
    return output.transpose(1, 2).contiguous(), None


@uncompiled
def dropout_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, dropout: float
) -> Tensor:
    """Attention of float32 tensors (rows, heads, tokens, size) with dropout, seeded by torch's generator.

    `mask` has four dimensions and broadcasts over rows and heads: True where a key is seen, or numbers that are added.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    mask = _added(mask) if mask is not None and mask.dtype == torch.bool else mask
    return cast("Any", _DropoutAttention).apply(query, key, value, mask, scale, Kept(dropout))


def _added(mask: Tensor) -> Tensor:
    """Numbers to add to the scores: 0 where a key is seen, otherwise the lowest number."""
    # The mask of a padded batch is the same for all queries.
    narrow = mask[:, :, :1] if mask.stride(2) == 0 else mask
    return (narrow.view(torch.uint8).float() - 1) * torch.finfo(torch.float32).max


def _refusal(query: Tensor, key: Tensor, mask: Tensor | None, more: dict[str, Any]) -> str | None:
    """Which of `REFUSALS` keeps attention with dropout from running block by block; None if nothing does."""
    if query.dtype != torch.float32 or query.device.type != "cpu":
        return "dtype"
    if query.shape[1] != key.shape[1]:
        return "heads"
    if mask is not None and (mask.dim() != 4 or mask.requires_grad):  # noqa: PLR2004 - rows, heads, tokens, tokens
        return "mask"
    if more.get("output_attentions") or any(
        more.get(name) is not None for name in ("position_bias", "cache", "softcap")
    ):
        return "extras"
    return None


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, kept: Kept
    ) -> Tensor:
        output = torch.empty(*query.shape[:-1], value.shape[-1])
        for rows, heads, queries in _blocks(query, key):
            q, k, v = query[rows, heads, queries], key[rows, heads], value[rows, heads]
            shares = _shares(q, k, _of_block(mask, rows, heads, queries), scale)
            shares.mul_(kept.drawn(shares.shape))
            output[rows, heads, queries] = torch.matmul(shares, v).mul_(kept.scale)
        ctx.save_for_backward(query, key, value, mask, output)
        ctx.scale, ctx.kept = scale, kept
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, mask, output = ctx.saved_tensors
        scale, kept = ctx.scale, ctx.kept
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for number, (rows, heads, queries) in enumerate(_blocks(query, key)):
            q, k, v = query[rows, heads, queries], key[rows, heads], value[rows, heads]
            given, out = gradient[rows, heads, queries], output[rows, heads, queries]
            shares = _shares(q, k, _of_block(mask, rows, heads, queries), scale)
            factors = kept.again(number, shares.shape)
            of_shares = torch.matmul(given * kept.scale, v.transpose(-1, -2)).mul_(factors)
            # The mean gradient of a query's shares, by which each share's is lessened: the derivative of the softmax.
            of_shares.sub_((given * out).sum(-1, keepdim=True)).mul_(shares)
            of_value[rows, heads] += torch.matmul(shares.mul_(factors).transpose(-1, -2), given).mul_(kept.scale)
            of_query[rows, heads, queries] = torch.matmul(of_shares, k).mul_(scale)
            of_key[rows, heads] += torch.matmul(of_shares.transpose(-1, -2), q).mul_(scale)
        return of_query, of_key, of_value, None, None, None


def _shares(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    scores = torch.matmul(query * scale, key.transpose(-1, -2))
    if mask is not None:
        scores.add_(mask)
    return torch.softmax(scores, -1)


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, heads and queries of each block: whole rows where several fit, else heads of one row, else queries of one head."""
    rows, heads, queries, _ = query.shape
    of_query = 4 * key.shape[2]
    of_head, of_row = of_query * queries, of_query * queries * heads
    if of_row <= BLOCK_BYTES:
        for row in _slices(rows, BLOCK_BYTES // of_row):
            yield row, slice(None), slice(None)
        return
    for row in _slices(rows, 1):
        for head in _slices(heads, max(1, BLOCK_BYTES // of_head)):
            for part in _slices(queries, max(1, BLOCK_BYTES // of_query)):
                yield row, head, part


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _of_block(mask: Tensor | None, rows: slice, heads: slice, queries: slice) -> Tensor | None:
    if mask is None:
        return None
    places = (rows, heads, queries)
    return mask[tuple(slice(None) if mask.shape[axis] == 1 else place for axis, place in enumerate(places))]
