"""Which class a label cell means."""

from itertools import permutations
from typing import Any

import pytest

from app.specs.labels import class_name, ordered

LABELS = ["bad", "good", "10"]


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (0, "bad"),
        (1.0, "good"),
        (" 1 ", "good"),
        ("good", "good"),
        (10, "10"),
        (2, "10"),
        (3, "3"),
        (-1, "-1"),
        (True, "true"),
        ("²", "²"),
        ("٢", "٢"),
        ("7" * 5000, "7" * 5000),
        ("0" * 5000, "0" * 5000),
        (None, None),
        ("", None),
        (float("nan"), None),
        ([], None),
    ],
)
def test_a_cell_is_a_name_before_it_is_an_id(cell: Any, name: str | None) -> None:
    assert class_name(cell, LABELS) == name


def test_without_labels_a_cell_is_its_own_name() -> None:
    assert class_name(1, None) == "1"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "1"], ["1", "9", "10"]),
        (["1.0", "1", "01"], ["01", "1", "1.0"]),
        (["nan", "2", "1"], ["1", "2", "nan"]),
        (["inf", "2", "10"], ["10", "2", "inf"]),
        (["b", "10", "9"], ["10", "9", "b"]),
    ],
)
def test_ids_depend_on_nothing_but_the_names(names: list[str], expected: list[str]) -> None:
    assert all(ordered(order) == expected for order in permutations(names))
