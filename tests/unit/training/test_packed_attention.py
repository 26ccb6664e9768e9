"""Attention of packed rows, each computed alone, against one mask that keeps them apart."""

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from worker.training.models.packed_attention import boundaries_of, packed_attention, refusal

POSITIONS = [[*range(7), *range(4)], [*range(3), *range(1), *range(5)]]
WIDTH = 12


def tensors(device: str = "cpu", dtype: torch.dtype = torch.float32, key_heads: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(3)
    shapes = [(2, 4, WIDTH, 8), (2, key_heads, WIDTH, 8), (2, key_heads, WIDTH, 8)]
    return [torch.randn(shape, dtype=dtype).to(device).requires_grad_() for shape in shapes]


def mask(causal: bool) -> torch.Tensor:
    """True where a token is of the same row as another, and not after it."""
    seen = torch.zeros(2, 1, WIDTH, WIDTH, dtype=torch.bool)
    for sequence, positions in enumerate(POSITIONS):
        begins = [place for place, step in enumerate(positions) if step == 0]
        ends = [*begins[1:], len(positions), WIDTH]
        for begin, end in zip([*begins, len(positions)], ends, strict=True):
            seen[sequence, 0, begin:end, begin:end] = True
    return seen.tril() if causal else seen


def test_boundaries_count_over_the_tokens_of_all_sequences_and_padding_is_a_row() -> None:
    found = boundaries_of(POSITIONS, WIDTH)
    assert found.dtype == torch.int32
    assert found.tolist() == [0, 7, 11, 12, 15, 16, 21, 24]
    assert boundaries_of([[0, 1, 0, 1]], 4).tolist() == [0, 2, 4]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_outputs_and_gradients_are_those_of_a_mask(causal: bool, key_heads: int) -> None:
    alone, masked = tensors(key_heads=key_heads), tensors(key_heads=key_heads)
    boundaries = boundaries_of(POSITIONS, WIDTH)
    found = packed_attention(*alone, boundaries, 0.3, causal=causal)  # pyright: ignore[reportCallIssue]
    wanted = scaled_dot_product_attention(*masked, attn_mask=mask(causal), scale=0.3, enable_gqa=True)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(found, wanted.transpose(1, 2))
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (wanted.transpose(1, 2) * weights).sum().backward()
    for mine, other in zip(alone, masked, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_off_the_cpu_flash_attention_is_called_with_what_it_takes() -> None:
    parts = tensors("meta", torch.bfloat16, key_heads=2)
    boundaries = boundaries_of(POSITIONS, WIDTH).to("meta")
    found = packed_attention(*parts, boundaries, None, causal=True)  # pyright: ignore[reportCallIssue]
    assert found.shape == (2, WIDTH, 4, 8)
    found.sum().backward()
    assert [part.grad.shape for part in parts if part.grad is not None] == [part.shape for part in parts]


@pytest.mark.parametrize(
    ("dtype", "device", "dropout", "more", "refused"),
    [
        (torch.float32, "cpu", 0.0, {}, None),
        (torch.float32, "cpu", 0.1, {}, "dropout"),
        (torch.float32, "meta", 0.0, {}, "dtype"),
        (torch.bfloat16, "meta", 0.0, {"sliding_window": None}, None),
        (torch.float32, "cpu", 0.0, {"sliding_window": WIDTH}, None),
        (torch.float32, "cpu", 0.0, {"sliding_window": 4}, "window"),
        (torch.float32, "cpu", 0.0, {"softcap": 30.0}, "extras"),
    ],
)
def test_what_it_cannot_compute_is_refused(
    dtype: torch.dtype, device: str, dropout: float, more: dict[str, Any], refused: str | None
) -> None:
    query = torch.empty(1, 1, WIDTH, 8, dtype=dtype, device=device)
    assert refusal(query, dropout, more) == refused
