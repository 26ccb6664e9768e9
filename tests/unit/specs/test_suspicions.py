import pytest

from app.specs.suspicions import header_warnings, similar_names


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["Positive", "negative", "positive", "postive"], [["Positive", "positive", "postive"]]),
        (["new york", "New  York", "boston"], [["new york", "New  York"]]),
        (["sport", "sports"], [["sport", "sports"]]),
        (["class 1", "class 2", "class 11"], []),
        (["typical", "atypical", "legal", "illegal"], []),
        (["positive", "negative", "a", "b"], []),
    ],
)
def test_names_that_differ_by_case_space_or_a_letter_are_similar(names: list[str], groups: list[list[str]]) -> None:
    assert similar_names(names) == groups


def test_a_column_that_is_named_like_a_cell_is_suspicious() -> None:
    assert header_warnings(["text", "label", "label_2", "y2024"]) == []
    (number,) = header_warnings(["text", "1"])
    assert number == "the column name '1' looks like a value; if the file has no header row, add one"
    assert len(header_warnings(["-0.5", "great " * 20])) == 2
