"""Which columns are suggested for roles that have none."""

import pytest

from app.specs import TASKS
from app.specs.usual_columns import suggested_columns

PLAIN = {"text": "text", "label": "label"}
KNOWN = [role for task in reversed(TASKS.values()) for role in task.known_roles]


@pytest.mark.parametrize(
    ("asked", "present", "expected"),
    [
        (PLAIN, ["review", "stars"], {"text": "review", "label": "stars"}),
        (PLAIN, ["id", "Sentence", "LABELS"], {"text": "Sentence", "label": "LABELS"}),
        # What is there stays, so that the whole can be pasted.
        (PLAIN, ["text", "category"], {"text": "text", "label": "category"}),
        ({"text": "reveiw", "label": "stars"}, ["review", "stars", "body"], {"text": "review", "label": "stars"}),
        # Only what there is something to say for, and nothing where all of that is there already.
        (PLAIN, ["review", "x"], {"text": "review"}),
        (PLAIN, ["text", "x"], {}),
        (PLAIN, ["test", "x"], {}),
        (PLAIN, [], {}),
        # A column is suggested once.
        (
            {"text": "text", "text_pair": "text_pair", "label": "label"},
            ["sentence1", "sentence2", "label"],
            {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
        ),
        ({"source": "source", "target": "text"}, ["text", "document"], {"source": "document", "target": "text"}),
        ({"anchor": "anchor", "positive": "p"}, ["query", "pos"], {"anchor": "query", "positive": "pos"}),
        # The name that was asked for is nearer than what is usual.
        ({"label": "gradee"}, ["labels", "grade"], {"label": "grade"}),
        # The role's own name, where the job names another that is not there.
        ({"text": "prose"}, ["body", "text"], {"text": "text"}),
    ],
)
def test_close_names_come_before_usual_ones(
    asked: dict[str, str], present: list[str], expected: dict[str, str]
) -> None:
    assert suggested_columns(asked, present, KNOWN) == expected


def test_every_role_has_usual_names_written_as_they_are_compared() -> None:
    for role in KNOWN:
        assert role.usual_names
        assert [name.casefold() for name in role.usual_names] == list(dict.fromkeys(role.usual_names))
