"""Signs that data are not what their owner believes: names of classes that look alike, and a file without a header row."""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import combinations

COMPARED_NAMES = 200
"""Only so many names are compared with each other: the time grows with the square of their number."""
SIMILAR = 0.9
"""The ratio of `difflib.SequenceMatcher` from which two names look alike. One changed letter of ten is 0.9."""
DIGITS = re.compile(r"\d+")
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
LONGEST_NAME = 80


def similar_names(names: Sequence[str]) -> list[list[str]]:
    """Groups of names that differ by case, by space, or by a letter or two, such as `Positive` and `postive`.

    Names that differ in their numbers, or in a prefix such as "un", are not similar.
    """
    groups: list[list[str]] = []
    for one, other in combinations(names[:COMPARED_NAMES], 2):
        if not _look_alike(one, other):
            continue
        group = next((group for group in groups if one in group or other in group), None)
        if group is None:
            groups.append([one, other])
        else:
            group += [name for name in (one, other) if name not in group]
    return groups


def header_warnings(columns: Iterable[str]) -> list[str]:
    """A warning for each column name that looks like a cell: a number, or a text that is too long for a name."""
    return [
        f"the column name '{name[:LONGEST_NAME]}' looks like a value; if the file has no header row, add one"
        for name in columns
        if NUMBER.fullmatch(name.strip()) or len(name) > LONGEST_NAME
    ]


def _look_alike(one: str, other: str) -> bool:
    first, second = ("".join(name.casefold().split()) for name in (one, other))
    if first == second:
        return True
    if DIGITS.findall(first) != DIGITS.findall(second) or first.endswith(second) or second.endswith(first):
        return False
    return SequenceMatcher(None, first, second, autojunk=False).ratio() >= SIMILAR
