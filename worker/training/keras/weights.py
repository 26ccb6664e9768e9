# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""The way between TensorFlow's weights and a PyTorch-format folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from transformers.modeling_tf_pytorch_utils import apply_transpose, convert_tf_weight_name_to_pt_weight_name


class UnlikeWeights(Exception):
    """A folder's weights are not those of TensorFlow's model."""


class Weights:
    """The weights of a model by their PyTorch names, in PyTorch's shapes."""

    def __init__(self, body: Any) -> None:
        self._found: dict[str, tuple[Any, Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for variable in body.weights:
            name, transpose = convert_tf_weight_name_to_pt_weight_name(variable.name, "", variable.shape)
            aliases = body.tf_to_pt_weight_rename(name) if hasattr(body, "tf_to_pt_weight_rename") else (name,)
            self._found[aliases[0]] = (variable, transpose)

    def load(self, folder: Path) -> None:
        """Take every weight of the folder. Raises UnlikeWeights where TensorFlow's model has no place for one.

        A weight that only TensorFlow's model has keeps its value: if it mattered, the logits would differ.
        """
        arrays = load_file(folder / "model.safetensors")
        if odd := sorted(set(arrays) - set(self._found)):
            raise UnlikeWeights(f"it has no place for {len(odd)} weights, such as {odd[:3]}")
        self._shapes = {name: array.shape for name, array in arrays.items()}
        for name, array in arrays.items():
            variable, transpose = self._found[name]
            variable.assign(apply_transpose(transpose, array, variable.shape))

    def save(self, path: Path) -> None:
        """Write safetensors as PyTorch's classes load them."""
        # safetensors writes memory in its physical order: a transposed view would be written untransposed.
        arrays = {
            name: np.ascontiguousarray(apply_transpose(transpose, variable.numpy(), shape, pt_to_tf=False))
            for name, shape in self._shapes.items()
            for variable, transpose in [self._found[name]]
        }
        save_file(arrays, path, metadata={"format": "pt"})

    def other_than(self, names: Sequence[str]) -> list[Any]:
        """The variables without these names."""
        named = set(names)
        return [variable for name, (variable, _) in self._found.items() if name not in named]
