from typing import Any

import pytest
from pydantic import ValidationError

from app.datasets.checks import check_rows
from app.specs import JobSpec
from app.specs.tasks.token_classification import TokenClassification, words

COLUMNS = {"tokens": "tokens", "tags": "tags"}


def task(**parts: Any) -> TokenClassification:
    return TokenClassification.model_validate({"type": "token-classification", **parts})


def faults(tokens: Any, tags: Any, known: list[str] | None = None, **parts: Any) -> list[tuple[str, str]]:
    asked = task(**parts)
    return list(asked.faults({"tokens": tokens, "tags": asked.read(tags)}, COLUMNS, known))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["Ada", "rests"], ["Ada", "rests"]),
        ("Ada  rests", ["Ada", "rests"]),
        ('["Ada", "New York"]', ["Ada", "New York"]),
        ("[0, 3]", [0, 3]),
        ("[ citation needed", ["[", "citation", "needed"]),
        ("[ citation ]", ["[", "citation", "]"]),
        ("['Ada', 'rests']", None),
        ("['Ada' 'rests']", None),
        (None, None),
        (7, None),
    ],
)
def test_lists_come_as_they_are_as_json_or_with_spaces_between(cell: Any, expected: Any) -> None:
    assert words(cell) == expected


def test_good_rows_have_no_fault() -> None:
    assert not faults(["Ada", "rests"], ["B-PER", "O"])
    assert not faults("Ada rests", "B-PER O")
    assert not faults('["New York", "rests"]', '["B-LOC", "O"]')
    assert not faults(["a", "b"], ["NN", "VB"], scheme="none")


@pytest.mark.parametrize(
    ("tokens", "tags", "role", "message"),
    [
        ([], [], "tokens", "a list of words is needed"),
        (["Ada", " "], ["O", "O"], "tokens", "a list of words is needed"),
        (["Ada", None], ["O", "O"], "tokens", "a list of words is needed"),
        (None, ["O"], "tokens", "a list of words is needed"),
        (["Ada", "rests"], ["O"], "tags", "there are 1 tags for 2 words"),
        (["Ada"], None, "tags", "a list of tags is needed"),
        (["Ada"], "['O']", "tags", "a list of tags is needed"),
        (["Ada"], [None], "tags", "a tag is missing"),
        (["Ada"], ["PER"], "tags", "'PER' is not BIO"),
        (["Ada"], ["E-PER"], "tags", "'E-PER' is not BIO"),
        (["Ada"], ["B-"], "tags", "'B-' is not BIO"),
        (["Ada"], ["B-ORG"], "tags", "'B-ORG' is not one of the classes of train"),
    ],
)
def test_a_fault_names_its_role_and_reason(tokens: Any, tags: Any, role: str, message: str) -> None:
    found = faults(tokens, tags, known=["O", "B-PER", "I-PER"])
    assert [at for at, _ in found] == [role]
    assert message in found[0][1]


def test_ids_count_into_the_labels_of_the_spec_also_as_text() -> None:
    labelled = task(labels=["O", "B-PER", "I-PER"])
    assert labelled.read([1, 0]) == ["B-PER", "O"]
    assert labelled.read("1 0") == ["B-PER", "O"]
    assert labelled.read([9]) == ["9"]


def test_ids_of_a_hub_dataset_are_its_own_or_renamed_by_the_spec() -> None:
    assert task(scheme="none").read([0, 1], ["1", "2"]) == ["1", "2"]
    assert task(labels=["O", "B-MAN"]).read([1], ["O", "B-PER"]) == ["B-MAN"]
    # The same names in another order: the id is the dataset's.
    assert task(labels=["B-PER", "O"]).read([1], ["O", "B-PER"]) == ["B-PER"]


def test_both_tags_of_a_name_are_learned_and_o_comes_first() -> None:
    assert task().learn({"B-PER", "I-LOC"}) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert task(scheme="none").learn({"VB", "NN"}) == ["NN", "VB"]


def test_labels_of_the_spec_are_of_its_scheme() -> None:
    with pytest.raises(ValidationError, match="'PER' is not a BIO tag"):
        task(labels=["O", "PER"])
    assert task(labels=["DET", "NOUN"], scheme="none").labels == ["DET", "NOUN"]


def test_one_tag_or_a_thousand_too_many_are_refused() -> None:
    assert "holds 1 tag" in str(task().classes_fault(["O"]))
    assert "the limit is 1000" in str(task().classes_fault([str(n) for n in range(1001)]))


def test_submit_finds_what_training_would() -> None:
    rows = [{"tokens": "Ada rests", "tags": "B-PER O"}, {"tokens": "Ada rests", "tags": "B-PER"}]
    spec = JobSpec.model_validate(
        {"task": {"type": "token-classification"}, "model": "m", "data": {"train": {"rows": rows}}}
    )
    report = check_rows(spec, rows, row_limit=10)
    assert [problem.message for problem in report.problems] == [
        "train row 2, column 'tags': there are 1 tags for 2 words"
    ]
    assert report.classes == {"B-PER", "O"}
