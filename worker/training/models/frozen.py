"""Frozen weights in bf16, where a forward pass with autocast would round them to bf16 each time."""

import torch


def round_frozen(model: torch.nn.Module) -> int:
    """Keep the frozen weights of linear layers in bf16; returns how many numbers that are.

    Under autocast to bf16 the model computes exactly the same, in less memory. Weights that a layer of another kind shares,
    such as embeddings, stay as they are, because that layer does not round them.
    """
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    kept = {
        id(weight)
        for module in model.modules()
        if not isinstance(module, torch.nn.Linear)
        for weight in module.parameters(recurse=False)
    }
    rounded = 0
    for module in linear:
        for weight in module.parameters(recurse=False):
            if not weight.requires_grad and id(weight) not in kept and weight.dtype == torch.float32:
                weight.data = weight.data.to(torch.bfloat16)
                rounded += weight.numel()
    return rounded
