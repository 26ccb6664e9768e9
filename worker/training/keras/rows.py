"""The rows of a split as padded arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


class Split:
    """The tokens of one split: flat arrays, and where in them each row begins."""

    def __init__(self, folder: Path, padding: dict[str, Any]) -> None:
        self._padding = padding
        self._starts = np.load(folder / "starts.npy")
        self._labels = np.load(folder / "labels.npy", mmap_mode="r")
        self._tokens = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in padding["values"]}
        self.lengths = np.diff(self._starts)

    def features(self, rows: np.ndarray[Any, Any]) -> Arrays:
        """Padded arrays (rows by tokens, int32), the mask among them."""
        padding, longest = self._padding, int(self.lengths[rows].max())
        # Few widths, so that what a kernel prepared for one serves again.
        width = padding["always"] or max(longest, min(-(-longest // 8) * 8, padding["most"]))
        arrays = {name: np.full((len(rows), width), padding["values"][name], np.int32) for name in self._tokens}
        arrays["attention_mask"] = np.zeros((len(rows), width), np.int32)
        for place, row in enumerate(rows):
            begin, length = self._starts[row], self.lengths[row]
            span = slice(width - length, width) if padding["left"] else slice(length)
            for name, tokens in self._tokens.items():
                arrays[name][place, span] = tokens[begin : begin + length]
            arrays["attention_mask"][place, span] = 1
        return arrays

    def step(self, rows: Sequence[int], batch_size: int, passes: int) -> Arrays:
        """The rows of a step as `passes` batches of one size; what fills up the last ones weighs nothing."""
        room = batch_size * passes
        filled = np.array([*rows, *[rows[0]] * (room - len(rows))])
        weight = np.zeros(room, np.float32)
        weight[: len(rows)] = 1 / len(rows)
        flat = {**self.features(filled), "labels": self._labels[filled].astype(np.int32), "weight": weight}
        return {name: array.reshape(passes, batch_size, *array.shape[1:]) for name, array in flat.items()}
