"""The optimisers, over the same groups of weights that `transformers.Trainer` forms."""

from typing import Any

import torch
from transformers import Adafactor

from app.specs.training import Training
from worker.training.loop.decay import decaying_names


def optimizer_of(training: Training, model: Any, head: tuple[str, ...]) -> torch.optim.Optimizer:
    """The optimizer of a spec for a model's trainable weights; `head` names the randomly initialized ones."""
    groups = _groups(model, training.weight_decay, training.learning_rate, training.head_learning_rate, frozenset(head))
    match training.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
        case "adafactor":
            return Adafactor(groups, lr=training.learning_rate, scale_parameter=False, relative_step=False)
        case "sgd":
            return torch.optim.SGD(groups, lr=training.learning_rate)


def _groups(
    model: Any, decay: float, rate: float, head_rate: float | None, head: frozenset[str]
) -> list[dict[str, Any]]:
    decaying = decaying_names(model)
    own_rate = head if head_rate is not None else frozenset[str]()
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups = [
        {
            "params": [w for name, w in named if (name in decaying) is decays and (name in own_rate) is apart],
            "weight_decay": decay if decays else 0.0,
            "lr": head_rate if apart else rate,
        }
        for apart in (False, True)
        for decays in (True, False)
    ]
    return [group for group in groups if group["params"]]
