"""How much each class counts in the loss, by `training.class_weights`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from app.specs import JobSpec
from worker.training.errors import ClassUnknown, nearest


def class_weights(
    spec: JobSpec, labels: list[str], targets: Sequence[int] | np.ndarray[Any, Any]
) -> torch.Tensor | None:
    """The weight of each class, float32, or None where the spec asks for none.

    `targets` are the class ids of train, one for each thing that is learned. Raises ClassUnknown.
    """
    asked = spec.training.class_weights
    if asked is None:
        return None
    counts = np.bincount(np.asarray(targets, dtype=np.int64), minlength=len(labels))
    if asked == "balanced":
        weights = np.ones(len(labels))
        seen = counts > 0
        weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    else:
        weights = _named_weights(asked, labels)
    # Scaled so that the mean weight over train is 1: the loss stays comparable, and so does the learning rate.
    return torch.tensor(weights * counts.sum() / (weights @ counts), dtype=torch.float32)


def _named_weights(asked: dict[str, float], labels: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    for name, weight in asked.items():
        if name not in labels:
            raise ClassUnknown(
                f"training.class_weights names '{name}', which is no class; classes are: "
                f"{', '.join(labels[:20])}.{nearest(name, labels)}"
            )
        if not 0 < weight < float("inf"):
            raise ClassUnknown(
                f"training.class_weights: the weight of '{name}' is {weight}", "Give a weight greater than 0."
            )
    return np.array([asked.get(name, 1.0) for name in labels])
