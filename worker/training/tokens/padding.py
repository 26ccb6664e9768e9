"""Lists of different lengths become one tensor."""

import torch


def pad_right(lists: list[list[int]], width: int, fill: int) -> torch.Tensor:
    """A tensor (lists, width) of int64: each list, then `fill`. No list is longer than `width`."""
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in lists])


def attention_mask(lists: list[list[int]], width: int) -> torch.Tensor:
    """A tensor (lists, width) with 1 where `pad_right` puts a value and 0 where it puts padding."""
    return pad_right([[1] * len(row) for row in lists], width, 0)
