"""Suggests columns for the roles of a task if a job names none that exists."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from app.specs.tasks.base import Role

CLOSE = 0.8
"""The minimum similarity of two names, as difflib measures it:

"lable" and "label" reach it, "test" and "text" do not.
"""


def suggested_columns(asked: Mapping[str, str], present: Sequence[str], roles: Iterable[Role]) -> dict[str, str]:
    """Role to suggested column, for as many roles as possible; empty if there is no suggestion for a missing role.

    `asked` maps each role to the column that a job names. Columns that are present stay. For any other role, the
    suggestion is a column with a similar name, otherwise one with the role's own name, otherwise one with a usual name
    of the role. No column is suggested for two roles.
    """
    usual = {role.name: role.usual_names for role in roles}
    found = {role: column for role, column in asked.items() if column in present}
    missing = [role for role in asked if role not in found]
    for is_close in (True, False):
        for role in missing:
            names = _folded(name for name in present if name not in found.values())
            column = _close(asked[role], names) if is_close else _usual((role, *usual.get(role, ())), names)
            if role not in found and column is not None:
                found[role] = column
    return {role: found[role] for role in asked if role in found} if any(role in found for role in missing) else {}


def _close(asked: str, names: Mapping[str, str]) -> str | None:
    near = get_close_matches(asked.casefold(), names, n=1, cutoff=CLOSE)
    return names[near[0]] if near else None


def _usual(wanted: Iterable[str], names: Mapping[str, str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _folded(names: Iterable[str]) -> dict[str, str]:
    return {name.casefold(): name for name in names}
