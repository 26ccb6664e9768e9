"""Markdown from text that users wrote: names, labels and messages appear as they are, whatever they contain.

https://spec.commonmark.org/0.31.2/#backslash-escapes
"""

import re
from collections.abc import Iterable, Sequence

PUNCTUATION = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$])")
SPACES = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
BACKTICKS = re.compile(r"`+")


def plain(text: str) -> str:
    """One line of text without any markup. The text has no meaning in Markdown or HTML."""
    return PUNCTUATION.sub(r"\\\1", SPACES.sub(" ", text)).strip()


def code(text: str) -> str:
    """The text as a code span of one line."""
    line = SPACES.sub(" ", text).strip()
    fence = "`" * (1 + max((len(run) for run in BACKTICKS.findall(line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already. A `|` in a cell does not end the cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(cell: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", SPACES.sub(" ", cell))
