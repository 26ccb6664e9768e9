"""How raw label cells become class names, the same at submit and in training."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

ID_DIGITS = 10
"""No list of labels is so long that its ids have more; int() refuses text of thousands of digits."""


def label_name(cell: Any) -> str | None:
    """The class name of one raw cell, or None for a cell that holds no label.

    4 and 4.0 are "4", True is "true", text stays as it is less the space around it.
    """
    if cell is None or isinstance(cell, (list, dict)):
        return None
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        if cell != cell:  # noqa: PLR0124 - NaN, how some readers write an empty cell
            return None
        return str(int(cell)) if cell.is_integer() else repr(cell)
    return str(cell).strip() or None


def class_name(cell: Any, labels: Sequence[str] | None) -> str | None:
    """The class that a raw cell means, given `task.labels`; None for a cell that holds no label.

    A whole number that is no label itself is an id into `labels`. What is neither stays as it is, for the caller to
    refuse by name.
    """
    name = label_name(cell)
    if name is None or labels is None or name in labels:
        return name
    is_id = name.isascii() and name.isdigit() and len(name) <= ID_DIGITS and int(name) < len(labels)
    return labels[int(name)] if is_id else name


def ordered(names: Iterable[str]) -> list[str]:
    """Class names in the order of their ids: by number where all are numbers, else by text.

    The order depends on nothing but the names: "1" and "1.0" are equal numbers, and "nan" has no place among numbers.
    """
    unique = sorted(set(names))
    try:
        numbers = {name: float(name) for name in unique}
    except ValueError:
        return unique
    return sorted(unique, key=numbers.__getitem__) if all(map(math.isfinite, numbers.values())) else unique
