"""Losses that several tasks share, as plain modules. Each is a sum; an engine divides it by the items of the optimizer step."""

import torch

IGNORE_INDEX = -100
"""The target of a position that is not learned, as in `torch.nn.functional.cross_entropy`."""


class CrossEntropy(torch.nn.Module):
    """Cross entropy summed over all positions whose target is not IGNORE_INDEX; 0 where there is none.

    `weight` (classes, float32) scales the loss of each class.
    """

    weight: torch.Tensor | None

    def __init__(self, *, label_smoothing: float = 0.0, weight: torch.Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum, in float32. `logits` (…, classes) and `targets` (…) line up: nothing is shifted here."""
        learned = targets != IGNORE_INDEX
        weight = None if self.weight is None else self.weight.to(logits.device)
        return torch.nn.functional.cross_entropy(
            logits[learned].float(),
            targets[learned],
            weight=weight,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
