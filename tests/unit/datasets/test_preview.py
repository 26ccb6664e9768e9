"""Rows and classes as they are shown."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets.preview import class_counts, preview


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "data.parquet"
    table = pa.table(
        {
            "text": [f"text {number}" for number in range(25)],
            "label": [number % 3 for number in range(24)] + [None],
            "scores": [[float("nan"), 1.0]] * 25,
            "_line": list(range(2, 27)),
        }
    )
    pq.write_table(table, path, row_group_size=10)
    return path


@pytest.mark.parametrize(
    ("start", "limit", "expected"),
    [(0, 3, range(3)), (9, 3, range(9, 12)), (8, 16, range(8, 24)), (20, 100, range(20, 25)), (25, 5, []), (3, 0, [])],
)
def test_rows_are_found_across_row_groups(parquet: Path, start: int, limit: int, expected: range) -> None:
    rows = preview(parquet, start, limit)

    assert [row["text"] for row in rows] == [f"text {number}" for number in expected]
    assert [row["_line"] for row in rows] == [number + 2 for number in expected]


def test_rows_are_fit_for_json_and_may_come_from_an_open_file(parquet: Path) -> None:
    (row,) = preview(io.BytesIO(parquet.read_bytes()), 24, 1)

    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row == {"text": "text 24", "label": None, "scores": [None, 1.0], "_line": 26}


def test_classes_are_counted_by_name(parquet: Path) -> None:
    assert class_counts(parquet, "label") == {"0": 8, "1": 8, "2": 8}
    assert class_counts(parquet, "scores") == {}
    with pytest.raises(KeyError):
        class_counts(parquet, "stars")


def test_a_column_of_many_values_holds_no_classes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": list(range(1001))}), tmp_path / "data.parquet")

    assert class_counts(tmp_path / "data.parquet", "id") is None
