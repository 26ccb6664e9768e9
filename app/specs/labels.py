"""How raw label cells become class names, the same at submit and in training."""

from collections.abc import Iterable
from typing import Any


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


def ordered(names: Iterable[str]) -> list[str]:
    """Class names in the order of their ids: by number where all are numbers, else by text."""
    unique = set(names)
    try:
        return sorted(unique, key=float)
    except ValueError:
        return sorted(unique)
