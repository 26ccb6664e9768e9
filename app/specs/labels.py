"""How raw label cells become class names, the same at submit and in training."""

import math
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import StringConstraints

LABEL_LIMIT = 1000
LabelName = Annotated[str, StringConstraints(max_length=1000)]
SHOWN_LABELS = 20
ID_DIGITS = 10
"""Ids of labels never have more digits. int() refuses text with thousands of digits."""


def label_name(cell: Any) -> str | None:
    """The class name of one raw cell, or None for a cell without a label.

    The numbers 4 and 4.0 become "4", True becomes "true", and text loses the space around it.
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


def number(cell: Any) -> float | None:
    """The finite number of one raw cell, which may be text, or None."""
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)):
        return None
    try:
        found = float(cell)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def class_name(cell: Any, labels: Sequence[str] | None) -> str | None:
    """The class of a raw cell, given `task.labels`; None for a cell without a label.

    A whole number that is not itself a label is an index into `labels`. Any other value stays as it is, so that the
    caller can refuse it by name.
    """
    name = label_name(cell)
    if name is None or labels is None or name in labels:
        return name
    is_id = name.isascii() and name.isdigit() and len(name) <= ID_DIGITS and int(name) < len(labels)
    return labels[int(name)] if is_id else name


def ordered(names: Iterable[str]) -> list[str]:
    """Class names in the order of their ids: sorted as numbers if all are numbers, otherwise as text.

    The order depends only on the names: "1" and "1.0" are equal numbers, and "nan" cannot be sorted among numbers.
    """
    unique = sorted(set(names))
    try:
        numbers = {name: float(name) for name in unique}
    except ValueError:
        return unique
    return sorted(unique, key=numbers.__getitem__) if all(map(math.isfinite, numbers.values())) else unique


def unknown(word: str, name: str, known: Collection[str] | None) -> str | None:
    """The message for a class that does not occur in train, or None. `word` is the task's word for a class."""
    if known is None or name in known:
        return None
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"the {word} '{name}' is not one of the classes of train: {', '.join(ordered(known)[:SHOWN_LABELS])}{hint}"


def too_many(names: Collection[str]) -> str | None:
    """The message for too many classes, or None."""
    if len(names) <= LABEL_LIMIT:
        return None
    return (
        f"the label column holds {len(names)} classes, the limit is {LABEL_LIMIT}; "
        "is it the right column, or a number to regress on?"
    )


def check_labels(labels: list[str] | None) -> list[str] | None:
    """Return a spec's list of classes. Raises ValueError if two are equal or one is empty."""
    if labels is not None and len(set(labels)) != len(labels):
        raise ValueError("a class is named twice")
    if labels is not None and any(not name.strip() for name in labels):
        raise ValueError("a class name is empty")
    return labels
