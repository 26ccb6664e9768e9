"""What columns of a role are usually called, to suggest one where a job names none that is there."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "text": ("sentence", "review", "content", "body", "comment", "sentence1", "premise", "question1"),
    "text_pair": ("sentence2", "hypothesis", "question2"),
    "label": ("labels", "stars", "class", "category", "target", "sentiment"),
    "question": ("query",),
    "context": ("passage", "paragraph"),
    "answers": ("answer",),
    "tokens": ("words",),
    "tags": ("ner_tags", "labels"),
    "source": ("document", "article", "text", "input"),
    "target": ("summary", "translation", "output"),
    "prompt": ("instruction", "question", "input"),
    "completion": ("response", "output", "answer"),
    "messages": ("conversation", "conversations", "chat"),
    "chosen": ("preferred", "accepted"),
    "rejected": ("dispreferred",),
    "anchor": ("query", "sentence1"),
    "positive": ("sentence2", "pos"),
    "negative": ("neg",),
}
"""Role to names that public datasets give to its column, most usual first; the role's own name goes before them."""

CLOSE = 0.8
"""How alike two names must be, as difflib counts: "lable" and "label" are, "test" and "text" are not."""


def suggested_columns(asked: Mapping[str, str], present: Sequence[str]) -> dict[str, str]:
    """Role to column for as many roles as there is something to say for; empty where no missing one has a column.

    `asked` maps each role to the column that a job names. Those that are present stay; for the others it is a
    name close to what was asked, else a usual name of the role. No column is suggested for two roles.
    """
    found = {role: column for role, column in asked.items() if column in present}
    missing = [role for role in asked if role not in found]
    for find in (_close, _usual):
        for role in missing:
            free = [name for name in present if name not in found.values()]
            if role not in found and (column := find(role, asked[role], free)) is not None:
                found[role] = column
    return {role: found[role] for role in asked if role in found} if any(role in found for role in missing) else {}


def _close(_: str, asked: str, present: Sequence[str]) -> str | None:
    folded = _folded(present)
    near = get_close_matches(asked.casefold(), folded, n=1, cutoff=CLOSE)
    return folded[near[0]] if near else None


def _usual(role: str, _: str, present: Sequence[str]) -> str | None:
    folded = _folded(present)
    return next((folded[name] for name in (role, *USUAL_NAMES.get(role, ())) if name in folded), None)


def _folded(names: Iterable[str]) -> dict[str, str]:
    return {name.casefold(): name for name in names}
