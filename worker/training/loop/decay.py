"""Which parameters weight decay pulls at: all but biases and norms."""

from typing import Any

import torch
from transformers.trainer_pt_utils import get_parameter_names

NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
"""Parameters that weight decay leaves alone, as Trainer's patterns have them."""


def decaying_names(model: Any) -> set[str]:
    """The names of the parameters of a PyTorch model that decay."""
    return set(get_parameter_names(model, [torch.nn.LayerNorm], NO_DECAY))
