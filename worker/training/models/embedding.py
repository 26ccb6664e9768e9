"""Embeddings whose gradient is written into one lasting tensor, of which only the rows of the last step are zeroed.

The gradient of an embedding is zero except for the tokens of a step, some hundred rows of 30,000. `torch.nn.Embedding` makes a new
tensor of zeros for it in each backward pass: 47 MB for a BERT of 22.7 M weights, a tenth of a step of 8 short rows.
"""

from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from worker.training.models.uncompiled import uncompiled

Tensor = torch.Tensor
FEWEST_WEIGHTS = 1 << 20
"""Smaller gradients cost nothing that can be measured."""


class Embedding(torch.nn.Embedding):
    """`torch.nn.Embedding`, in training on a CPU with a lasting gradient. Optimizers must not write into gradients."""

    _lasting: Tensor | None = None
    _touched: tuple[Tensor, ...] = ()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        """Look up the vectors of ids."""
        if not torch.is_grad_enabled() or not self.weight.requires_grad or self.weight.device.type != "cpu":
            return super().forward(input)
        return _looked_up(self, input)

    def accumulate(self, ids: Tensor, gradient: Tensor) -> None:
        """Add to the gradient of the weight, beginning with zeros where the optimizer has taken the last one."""
        weight = self.weight
        if weight.grad is None:
            self._lasting = torch.zeros_like(weight) if self._lasting is None else self._lasting
            for rows in self._touched:
                self._lasting[rows] = 0
            self._touched = ()
            weight.grad = self._lasting
        if weight.grad is self._lasting:
            self._touched = (*self._touched, ids)
        weight.grad.index_add_(0, ids, gradient)


def use_lasting_gradients(model: torch.nn.Module) -> None:
    """Let each large embedding of a model whose weight is used nowhere else keep its gradient."""
    weights = [id(weight) for module in model.modules() for weight in module.parameters(recurse=False)]
    for module in model.modules():
        if type(module) is torch.nn.Embedding and _is_plain(module) and weights.count(id(module.weight)) == 1:
            # Keeps the object, which others may hold and which hooks are bound to.
            module.__class__ = Embedding


def _is_plain(module: torch.nn.Embedding) -> bool:
    is_special = module.sparse or module.scale_grad_by_freq or module.max_norm
    return not is_special and module.weight.numel() >= FEWEST_WEIGHTS


# A compiled layer knows no gradient that is written past it.
@uncompiled
def _looked_up(embedding: Embedding, ids: Tensor) -> Tensor:
    return cast("Any", _Lookup).apply(embedding.weight, ids, embedding)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, weight: Tensor, ids: Tensor, embedding: Embedding
    ) -> Tensor:
        ctx.ids, ctx.embedding = ids, embedding
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ids, embedding = ctx.ids.flatten(), ctx.embedding
        flat = gradient.reshape(len(ids), -1)
        if embedding.padding_idx is not None:
            flat = flat.masked_fill((ids == embedding.padding_idx)[:, None], 0)
        embedding.accumulate(ids, flat)
        return None, None, None
