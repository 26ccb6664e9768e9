"""One tag for each word of a text: named entities, parts of speech, fields of an address."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, ValidationInfo, field_validator

from app.specs.labels import LABEL_LIMIT, LabelName, check_labels, class_name, label_name, ordered, unknown
from app.specs.tasks.base import Columns, Example, Fault, Role, Row, TaskSpec

BIO = re.compile(r"O|[BI]-.+")
PYTHON_LIST = re.compile(r"\s*\[\s*['\"]")
"""The start of `str` of a list of words, which pandas writes into CSV files."""


class TokenClassification(TaskSpec):
    """Tag each word of a text, such as the names of people and places in it."""

    known_roles: ClassVar[tuple[Role, ...]] = (
        Role("tokens", ("words",)),
        Role("tags", ("ner_tags", "labels"), is_answer=True, is_target=True),
    )
    example: ClassVar[Example] = {
        "name": "names",
        "task": {"type": "token-classification"},
        "model": "google-bert/bert-base-cased",
        "data": {
            "train": {
                "rows": [
                    {
                        "tokens": ["Ada", "Lovelace", "lived", "in", "London"],
                        "tags": ["B-PER", "I-PER", "O", "O", "B-LOC"],
                    },
                    {"tokens": ["It", "rains"], "tags": ["O", "O"]},
                ]
            }
        },
    }

    type: Literal["token-classification"] = Field(description="The task type.")
    scheme: Literal["BIO", "none"] = Field(
        default="BIO",
        description="`BIO`: tags are `O`, `B-NAME` and `I-NAME`, and metrics count whole entities. "
        "`none`: each word has its own tag, as with parts of speech, and metrics count words.",
    )
    labels: list[LabelName] | None = Field(
        default=None,
        min_length=2,
        max_length=1000,
        description="The tags in the order of their ids. Without it they are learned from train, with `B-` and `I-` of "
        "each name. With it, whole numbers are ids into this list.",
    )

    @field_validator("labels")
    @classmethod
    def _labels_are_distinct_and_of_the_scheme(cls, labels: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if info.data.get("scheme") == "BIO" and (odd := next((n for n in labels or [] if not BIO.fullmatch(n)), None)):
            raise ValueError(f"'{odd}' is not a BIO tag: 'O', 'B-NAME' or 'I-NAME'; or set task.scheme to \"none\"")
        return check_labels(labels)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Over entities, or over words; accuracy always counts words."""
        return ("f1", "precision", "recall", "accuracy")

    @property
    def class_names(self) -> Sequence[str] | None:
        """The spec's own list."""
        return self.labels

    def read(self, cell: Any, names: Sequence[str] | None = None) -> Any:
        """A list of tag names. Any other value stays as it is, and is refused later."""
        found = words(cell)
        return cell if found is None else [self._tag(part, names) for part in found]

    def classes(self, cell: Any) -> Iterable[str]:
        """Each tag."""
        return cell

    def learn(self, seen: Iterable[str]) -> list[str]:
        """`O` first, then both tags of each name; without a scheme, in the usual order of labels."""
        if self.scheme == "none":
            return ordered(seen)
        names = sorted({tag[2:] for tag in seen if tag != "O"})
        return ["O", *(f"{place}-{name}" for name in names for place in "BI")]

    def classes_fault(self, seen: Collection[str]) -> str | None:
        """A single tag, or too many tags, cannot be trained on."""
        if len(seen) < 2:  # noqa: PLR2004 - a single tag leaves nothing to distinguish
            return f"the tags column holds {len(seen)} tag; at least 2 are needed"
        if len(seen) > LABEL_LIMIT:
            return f"the tags column holds {len(seen)} tags, the limit is {LABEL_LIMIT}; is it the right column?"
        return None

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows without words, with another number of tags, or with an invalid tag."""
        tokens, tags = words(row.get(columns["tokens"])), words(row.get(columns["tags"]))
        if not tokens or not all(isinstance(word, str) and word.strip() for word in tokens):
            yield "tokens", "a list of words is needed, each a text that is not empty"
        if tags is None:
            yield (
                "tags",
                "a list of tags is needed, one for each word; as text, a JSON list or tags with spaces between",
            )
        elif tokens is not None and len(tokens) != len(tags):
            yield "tags", f"there are {len(tags)} tags for {len(tokens)} words"
        elif message := next((fault for tag in tags if (fault := self._tag_fault(tag, known))), None):
            yield "tags", message

    def _tag(self, cell: Any, names: Sequence[str] | None) -> str | None:
        if names and self.labels and not set(names) <= set(self.labels):
            # The spec renames a hub dataset's tags: its ids count into the spec's list.
            names = self.labels
        if names is not None and isinstance(cell, int):
            return names[cell] if 0 <= cell < len(names) else label_name(cell)
        return class_name(cell, self.labels)

    def _tag_fault(self, tag: Any, known: Collection[str] | None) -> str | None:
        if not isinstance(tag, str):
            return "a tag is missing"
        if self.scheme == "BIO" and BIO.fullmatch(tag) is None:
            return f"the tag '{tag}' is not BIO: 'O', 'B-NAME' or 'I-NAME'; for tags without B- and I-, set task.scheme to \"none\""
        return unknown("tag", tag, known)


def words(cell: Any) -> list[Any] | None:
    """The parts of a cell: a list, JSON text of a list, or another text split at its spaces.

    None for anything else, such as a list in Python's notation.
    """
    if not isinstance(cell, str):
        return cast("list[Any]", cell) if isinstance(cell, list) else None
    if not cell.lstrip().startswith("["):
        return cell.split()
    try:
        read = json.loads(cell)
    except ValueError:
        # A text that begins and ends like a list is not a list of words; "[ citation needed" is.
        return None if cell.rstrip().endswith("]") and PYTHON_LIST.match(cell) else cell.split()
    return cast("list[Any]", read)


SPEC = TokenClassification
