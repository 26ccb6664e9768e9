"""Several files as one: what is brought together, and what is refused with the names of both files."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets.errors import UnusableFile
from app.datasets.formats import detect
from app.datasets.intake import keep
from app.datasets.joining import Joint, Part
from app.datasets.limits import UploadLimits

LIMITS = UploadLimits(rows=100_000, unpacked_bytes=64 << 20)

Join = Callable[..., pa.Table]


@pytest.fixture
def join(tmp_path: Path) -> Join:
    """Take in files by name and content, and read back what was kept of all."""

    def run(files: dict[str, str | bytes], limits: UploadLimits = LIMITS) -> pa.Table:
        joint = Joint(limits)
        for number, (name, content) in enumerate(files.items()):
            source, parquet = tmp_path / name, tmp_path / f"{number}.part"
            source.write_bytes(content.encode() if isinstance(content, str) else content)
            joint.add(Part(name, parquet, keep(source, detect(source, name), parquet, limits)))
        joint.keep(tmp_path / "kept.parquet")
        assert list(tmp_path.glob("*.part")) == []
        return pq.read_table(tmp_path / "kept.parquet")

    return run


def _lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_rows_come_file_after_file_across_batches(join: Join) -> None:
    files: dict[str, str | bytes] = {
        "a.csv": "n,text\n" + "".join(f"{n},x\n" for n in range(25_000)),
        "b.tsv": "text\tn\n" + "".join(f"y\t{n}\n" for n in range(25_000, 30_000)),
        "c.json": json.dumps([{"text": "z", "n": 30_000}]),
        "d.parquet": _parquet(text=["w"], n=[30_001]),
    }

    kept = join(files)

    assert kept.column_names == ["n", "text", "_line", "_file"]
    assert kept["n"].to_pylist() == list(range(30_002))
    assert kept["_line"].to_pylist() == [*range(2, 25_002), *range(2, 5_002), 1, 1]
    assert kept["_file"].to_pylist() == ["a.csv"] * 25_000 + ["b.tsv"] * 5_000 + ["c.json", "d.parquet"]


FITTING: dict[str, tuple[dict[str, str | bytes], list[Any]]] = {
    "integer and number": ({"a.csv": "x\n1\n", "b.csv": "x\n2.5\n"}, [1.0, 2.5]),
    "number and integer": ({"a.csv": "x\n.5\n", "b.jsonl": _lines({"x": 2})}, [0.5, 2.0]),
    "empty here": ({"a.csv": "x,y\n,1\n", "b.csv": "x,y\n7,1\n"}, [None, 7]),
    "empty there": ({"a.jsonl": _lines({"x": ["a"]}), "b.jsonl": _lines({"x": None})}, [["a"], None]),
    "empty everywhere": ({"a.csv": "x,y\n,1\n", "b.jsonl": _lines({"x": None, "y": 1})}, [None, None]),
    "empty lists": ({"a.jsonl": _lines({"x": []}), "b.jsonl": _lines({"x": [1]})}, [[], [1]]),
    "null in Parquet": ({"a.parquet": _parquet(x=pa.nulls(1)), "b.jsonl": _lines({"x": [1]})}, [None, [1]]),
    "keys of objects": (
        {"a.jsonl": _lines({"x": [{"a": 1}]}), "b.jsonl": _lines({"x": [{"b": "c", "a": 1.5}]})},
        [[{"a": 1.0, "b": None}], [{"a": 1.5, "b": "c"}]],
    ),
    "long texts": ({"a.csv": "x\n" + "x" * 70_000 + "\n", "b.csv": "x\ny\n"}, ["x" * 70_000, "y"]),
}


@pytest.mark.parametrize(("files", "expected"), FITTING.values(), ids=FITTING)
def test_types_that_fit_are_brought_together(join: Join, files: dict[str, str | bytes], expected: list[Any]) -> None:
    assert join(files)["x"].to_pylist() == expected


REFUSED: dict[str, tuple[dict[str, str | bytes], str, str, str]] = {
    # files, code, column and what the message must say
    "close name": (
        {"a.csv": "text,label\na,1\n", "b.csv": "Labels,text\n1,a\n"},
        "columns_differ",
        "label",
        "'b.csv' has no column 'label', which 'a.csv' has; did you mean 'Labels'? Rename it",
    ),
    "no close name": (
        {"a.csv": "text,label\na,1\n", "b.jsonl": _lines({"text": "a", "stars": 1})},
        "columns_differ",
        "label",
        "'b.jsonl' has no column 'label', which 'a.csv' has; add it; its columns are text, stars",
    ),
    "one more": (
        {"a.csv": "text\na\n", "b.csv": "text,id\na,1\n"},
        "columns_differ",
        "id",
        "'b.csv' has the column 'id', which 'a.csv' has not; leave it out",
    ),
    "text and integer": (
        {"a.csv": "x\n1\n", "b.csv": "x\n2.5\n", "c.csv": "x\nfive\n"},
        "mixed_types",
        "x",
        "column 'x' is a string in 'c.csv', but an integer in 'a.csv'",
    ),
    "the file that knows": (
        {"a.csv": "x,y\n,1\n", "b.csv": "x,y\ntrue,1\n", "c.csv": "x,y\n1,1\n"},
        "mixed_types",
        "x",
        "column 'x' is an integer in 'c.csv', but true or false in 'b.csv'",
    ),
    "inside": (
        {"a.jsonl": _lines({"m": [{"c": "x"}]}), "b.jsonl": _lines({"m": [{"c": ["x"]}]})},
        "mixed_types",
        "m[].c",
        "column 'm[].c' is a list in 'b.jsonl', but a string in 'a.jsonl'",
    ),
    "object and list": (
        {"a.jsonl": _lines({"m": {"c": 1}}), "b.jsonl": _lines({"m": []})},
        "mixed_types",
        "m",
        "column 'm' is a list in 'b.jsonl', but an object in 'a.jsonl'",
    ),
    "reserved": ({"a.csv": "_file\na\n"}, "header", "_file", "'_file' is reserved for file names"),
}


@pytest.mark.parametrize(("files", "code", "column", "message"), REFUSED.values(), ids=REFUSED)
def test_files_that_differ_are_refused_by_file_and_column(
    join: Join, files: dict[str, str | bytes], code: str, column: str, message: str
) -> None:
    with pytest.raises(UnusableFile) as raised:
        join(files)

    assert (raised.value.code, raised.value.column) == (code, column)
    assert message in raised.value.message


def test_an_integer_that_no_number_can_hold_is_named(join: Join) -> None:
    large = 2**53 + 1

    with pytest.raises(UnusableFile) as raised:
        join({"a.csv": f"x,y\n1,a\n\n{large},b\n", "b.csv": "x,y\n2.5,c\n"})

    error = raised.value
    assert (error.code, error.file, error.row, error.line, error.column) == ("bad_value", "a.csv", 2, 4, "x")


def test_the_limits_hold_for_all_files_together(join: Join) -> None:
    files: dict[str, str | bytes] = dict.fromkeys(("a.csv", "b.csv"), "x\n" + "1\n" * 600)

    for limits, code in ((UploadLimits(rows=1000), "too_many_rows"), (UploadLimits(unpacked_bytes=2000), "too_large")):
        with pytest.raises(UnusableFile) as raised:
            join(files, limits)
        assert raised.value.code == code
    assert join(files, UploadLimits(rows=1200, unpacked_bytes=2404)).num_rows == 1200


def test_what_unpacks_is_counted_in_every_format(join: Join) -> None:
    rows = [{"x": n} for n in range(2000)]
    table = _parquet(x=[row["x"] for row in rows])
    pages = pq.ParquetFile(pa.BufferReader(table)).metadata.row_group(0).total_byte_size
    files = [
        ("a.json", json.dumps(rows), len(json.dumps(rows))),
        ("b.jsonl", _lines(*rows), len(_lines(*rows))),
        ("c.jsonl.gz", gzip.compress(_lines(*rows).encode()), len(_lines(*rows))),
        ("d.parquet", table, pages),
    ]

    for name, content, unpacked in files:
        with pytest.raises(UnusableFile) as raised:
            join({name: content, f"z{name}": content}, UploadLimits(unpacked_bytes=unpacked + unpacked // 2))
        assert (raised.value.code, "together" in raised.value.message) == ("too_large", True)
