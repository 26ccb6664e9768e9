"""Whatever texts people have come back as they were, with the line they stand in."""

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from app.datasets.formats import detect
from app.datasets.intake import keep
from app.datasets.limits import UploadLimits

# Every character but surrogates, which are none, and NUL, which is refused.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
AWKWARD = st.text(st.sampled_from('",\n\r\t é😀\u2028\x0b\x85a'))
ROWS = st.lists(st.tuples(TEXTS | AWKWARD, TEXTS | AWKWARD), min_size=1, max_size=20)


def _take_in(name: str, content: bytes) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        source, parquet = Path(folder, "source"), Path(folder, "kept.parquet")
        source.write_bytes(content)
        keep(source, detect(source, name), parquet, UploadLimits())
        return pq.read_table(parquet).to_pylist()


def _lines(text: str) -> int:
    return len(text.encode().splitlines())


@given(ROWS, st.sampled_from([("a.csv", ","), ("a.tsv", "\t")]), st.sampled_from(["\n", "\r\n"]))
def test_csv_texts_and_lines_come_back(rows: list[tuple[str, str]], kind: tuple[str, str], ending: str) -> None:
    name, delimiter = kind
    expected, written = [], io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerow(["first", "second"])
    for first, second in rows:
        # The letter keeps texts such as "1" or "" from being read as numbers or nulls.
        expected.append({"first": "x" + first, "second": second + "x", "_line": _lines(written.getvalue()) + 1})
        writer.writerow(["x" + first, second + "x"])

    assert _take_in(name, written.getvalue().encode()) == expected


@given(ROWS, st.booleans())
def test_jsonl_texts_and_lines_come_back(rows: list[tuple[str, str]], ascii_only: bool) -> None:
    expected = [
        {"first": first, "turns": [{"text": second}], "_line": line}
        for line, (first, second) in enumerate(rows, start=1)
    ]
    written = "".join(
        json.dumps({"first": row["first"], "turns": row["turns"]}, ensure_ascii=ascii_only) + "\n" for row in expected
    )

    assert _take_in("a.jsonl", written.encode()) == expected


@given(ROWS, st.sampled_from([None, 1]))
def test_json_array_texts_come_back(rows: list[tuple[str, str]], indent: int | None) -> None:
    written = json.dumps([{"first": first, "second": second} for first, second in rows], indent=indent)

    kept = _take_in("a.json", written.encode())

    assert [(row["first"], row["second"], row["_line"]) for row in kept] == [
        (first, second, number) for number, (first, second) in enumerate(rows, start=1)
    ]
