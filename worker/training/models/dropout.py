"""Dropout on a CPU from fast random bits, stored as bits.

`torch.nn.Dropout` draws each number by itself in one thread, at 10 ns, and multiplies by a mask of bools, which is not
vectorized. Together that took a tenth of a step of a BERT encoder. Here one random number of 64 bits decides on four.

The bits come from SFC64 (https://numpy.org/doc/stable/reference/random/bit_generators/sfc64.html), seeded by torch's
generator, so the random state in a checkpoint covers them.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from worker.training.models.uncompiled import uncompiled

Tensor = torch.Tensor
LEVELS = 1 << 16
"""Random numbers of 16 bits decide what is dropped, so the probability is rounded to a multiple of 1 / 65,536."""
SEEDS = 1 << 62


class Kept:
    """Which numbers are kept: drawn once, stored as bits."""

    def __init__(self, dropout: float) -> None:
        self._dropped = min(LEVELS - 1, round(dropout * LEVELS))
        self._draw = np.random.SFC64(int(torch.randint(SEEDS, ())))
        self._bits: list[np.ndarray[Any, Any]] = []
        self.scale = LEVELS / (LEVELS - self._dropped)
        """By what the kept ones are multiplied, so that the expected value stays."""

    def drawn(self, shape: torch.Size) -> Tensor:
        """Draw the next block: 1 where a number is kept, otherwise 0."""
        count = shape.numel()
        kept = self._draw.random_raw(math.ceil(count / 4)).view(np.uint16)[:count] >= self._dropped
        self._bits.append(np.packbits(kept))
        return _factors(kept.view(np.uint8), shape)

    def again(self, block: int, shape: torch.Size) -> Tensor:
        """A block that was drawn before."""
        return _factors(np.unpackbits(self._bits[block], count=shape.numel()), shape)


class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout`, in training on a CPU by `Kept`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        """Zero some numbers and scale the others."""
        if not self.training or not self.p or self.p >= 1 or input.device.type != "cpu" or input.dtype != torch.float32:
            return super().forward(input)
        return _dropped(input, self.p)


def use_fast_dropout(model: torch.nn.Module) -> None:
    """Replace each `torch.nn.Dropout` of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))


# The compiler knows no random numbers but torch's.
@uncompiled
def _dropped(values: Tensor, probability: float) -> Tensor:
    return cast("Any", _Dropout).apply(values, Kept(probability))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, kept: Kept) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.kept = kept
        return kept.drawn(values.shape).mul_(values).mul_(kept.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.kept.again(0, gradient.shape).mul_(gradient).mul_(ctx.kept.scale), None


def _factors(kept: np.ndarray[Any, Any], shape: torch.Size) -> Tensor:
    # Multiplying by numbers takes a tenth of the time of multiplying by bools or of `masked_fill_`.
    return torch.from_numpy(kept).view(shape).float()
