"""Functions that `torch.compile` leaves alone."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
T = TypeVar("T")


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run as it is inside of compiled layers too (https://docs.pytorch.org/docs/stable/torch.compiler_api.html)."""
    return cast("Any", torch.compiler.disable)(function)
