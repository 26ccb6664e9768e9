"""Which column names a file may have, whatever its format."""

from collections.abc import Iterable

from app.datasets.errors import UnusableFile

LINE = "_line"
"""The column that we add: each row's line in the file that was uploaded."""

NAME_LIMIT = 300


def check_columns(names: Iterable[str], limit: int, line: int | None = None) -> None:
    """Raise UnusableFile for names that are empty, doubled, reserved, too long or too many."""
    seen: set[str] = set()
    for place, name in enumerate(names, start=1):
        if (fault := _fault(name, place, seen)) is not None:
            raise UnusableFile(fault, "header", line=line, column=name or None)
        seen.add(name)
    if len(seen) > limit:
        raise UnusableFile(f"there are {len(seen):,} columns, the limit is {limit:,}", "too_many_columns", line=line)


def _fault(name: str, place: int, seen: set[str]) -> str | None:
    if not name.strip():
        return f"column {place} has no name"
    if name in seen:
        return f"the column name '{name}' stands there twice"
    if name == LINE:
        return f"the column name '{LINE}' is reserved for line numbers; rename it or leave it out"
    if len(name) > NAME_LIMIT:
        return f"the name of column {place} is longer than {NAME_LIMIT} characters: '{name[:40]}…'"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return f"the name of column {place} holds a lone surrogate, which is no character"
    return None
