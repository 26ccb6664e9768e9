"""What intake makes of files: rows, types and line numbers of good ones, and the place of the fault in bad ones."""

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets.errors import UnusableFile
from app.datasets.formats import detect
from app.datasets.intake import keep
from app.datasets.limits import UploadLimits

LIMITS = UploadLimits(record_bytes=2 << 20, columns=20, rows=100_000, unpacked_bytes=64 << 20)


@pytest.fixture
def intake(tmp_path: Path) -> "Intake":
    return Intake(tmp_path)


class Intake:
    """Writes a file, takes it in, and reads back what was kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.types: dict[str, str] = {}
        self.kept: Any = None

    def rows(self, name: str, content: bytes | str, limits: UploadLimits = LIMITS) -> list[dict[str, Any]]:
        source, parquet = self.folder / "source", self.folder / "kept.parquet"
        source.write_bytes(content.encode() if isinstance(content, str) else content)
        self.kept = keep(source, detect(source, name), parquet, limits)
        self.types = {column.name: column.type for column in self.kept.columns}
        return pq.read_table(parquet).to_pylist()

    def error(self, name: str, content: bytes | str, limits: UploadLimits = LIMITS) -> UnusableFile:
        with pytest.raises(UnusableFile) as raised:
            self.rows(name, content, limits)
        return raised.value


def test_csv_keeps_the_line_where_each_row_starts(intake: Intake) -> None:
    rows = intake.rows("a.csv", 'text,label\r\n"one\r\ntwo\nthree",1\r\n\r\nfour,2\rfive,3\n"",4')

    assert rows == [
        {"text": "one\r\ntwo\nthree", "label": 1, "_line": 2},
        {"text": "four", "label": 2, "_line": 6},
        {"text": "five", "label": 3, "_line": 7},
        {"text": None, "label": 4, "_line": 8},
    ]


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (["1", "", "-20"], "integer", [1, None, -20]),
        (["1", "2.5", "-1e3", ".5"], "number", [1.0, 2.5, -1000.0, 0.5]),
        (["true", "False", "TRUE"], "boolean", [True, False, True]),
        (["007", "1"], "string", ["007", "1"]),
        (["1", "1234567890123456789"], "string", ["1", "1234567890123456789"]),
        (["1e999", "1"], "string", ["1e999", "1"]),
        (["nan", "1.0"], "string", ["nan", "1.0"]),
        (["1", "true"], "string", ["1", "true"]),
        ([" 1", "2"], "string", [" 1", "2"]),
        (["", ""], "string", [None, None]),
        (["+1", "1"], "string", ["+1", "1"]),
    ],
)
def test_csv_takes_the_narrowest_type_that_keeps_every_cell(
    intake: Intake, cells: list[str], kind: str, expected: list[Any]
) -> None:
    rows = intake.rows("a.tsv", "x\ty\n" + "".join(f"{cell}\tz\n" for cell in cells))

    assert [row["x"] for row in rows] == expected
    assert intake.types["x"] == kind


@pytest.mark.parametrize("late", ["3.5", "x", "", "true"])
def test_csv_widens_a_type_that_a_late_row_breaks(intake: Intake, late: str) -> None:
    rows = intake.rows("a.csv", "x,y\n" + "1,a\n" * 25_000 + f"{late},a\n" + "2,a\n" * 5_000)

    expected = {"3.5": 1.0, "x": "1", "": 1, "true": "1"}[late]
    assert rows[0] == {"x": expected, "y": "a", "_line": 2}
    assert rows[-1]["_line"] == len(rows) + 1 == 30_002


def test_csv_counts_nulls_and_distinct_values(intake: Intake) -> None:
    intake.rows("a.csv", "x,y\n" + "".join(f"{number},{number % 3 or ''}\n" for number in range(3000)))

    x, y = intake.kept.columns
    assert (x.nulls, x.distinct, x.example) == (0, None, 0)
    assert (y.nulls, y.distinct, y.example) == (1000, 2, 1)


CSV_FAULTS = {
    "ragged": ("a,b\n1,2\n1,2,3\n", "ragged_row", 3, "line 3 has 3 cells, the header has 2"),
    "short row": ('a,b\n"1\n2",2\n1\n', "ragged_row", 4, "line 4 has 1 cell,"),
    "never closed": ('a,b\n1,2\n"x\ny",3\n4,"5\n6\n', "quote", 5, "quote opened in line 5 is never closed"),
    "never closed, second cell": ('a,b\n"x\ny","z\n', "quote", 3, "quote opened in line 3 is never closed"),
    "never closed in the header": ('a,"b\n1,2\n', "quote", 1, "quote opened in line 1 is never closed"),
    "after a quote": ('a,b\n"x"y,2\n', "quote", 2, "line 2 goes on after a closing quote"),
    "stray quote closes late": ('a,b\n"x,1\n"y",2\n', "quote", 3, "quote was opened in line 2"),
    "double header": ("a,a\n1,2\n", "header", 1, "'a' occurs twice"),
    "empty header": ("a, \n1,2\n", "header", 1, "column 2 has no name"),
    "reserved header": ("a,_line\n1,2\n", "header", 1, "reserved"),
    "semicolons": ("text;label\nx;1\n", "header", 1, "semicolons"),
    "no rows": ("a,b\n", "empty", None, "no rows"),
    "blank": ("\n\n", "empty", None, "no header"),
    "nul": ("a,b\n1,2\n1,\x00\n", "nul_byte", 3, "line 3 contains a NUL byte (at offset 10)"),
    "columns": (",".join(f"c{n}" for n in range(21)) + "\n", "too_many_columns", 1, "21 columns"),
    "long line": ("a,b\n1,2\n" + "x" * (4 << 20) + ",1\n", "too_long", 3, "line 3 is longer than"),
    "long quote": ('a,b\n1,2\n3,"' + "x\n" * (2 << 20), "too_long", 3, "a cell in line 3 is longer than"),
    "rows": ("a\n" + "1\n" * 100_001, "too_many_rows", None, "more than 100,000 rows"),
}


@pytest.mark.parametrize(("content", "code", "line", "message"), CSV_FAULTS.values(), ids=CSV_FAULTS)
def test_csv_names_the_place_of_a_fault(intake: Intake, content: str, code: str, line: int, message: str) -> None:
    error = intake.error("a.csv", content)

    assert (error.code, error.line) == (code, line)
    assert message in error.message


def test_csv_counts_the_row_of_a_fault_far_down(intake: Intake) -> None:
    error = intake.error("a.csv", "a,b\n" + '"1\n",2\n' * 20_500 + '1,"x"y\n')
    ragged = intake.error("a.csv", "a,b\n" + '"1\n",2\n' * 20_500 + "1\n")

    assert error.line == 41_002
    assert (ragged.line, ragged.row) == (41_002, 20_501)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_bytes_that_are_not_utf8_are_named(intake: Intake, name: str) -> None:
    text = "é" * 20
    padding = f'{{"a": "{text}", "b": 1}}\n' * 60_000 if name != "a.csv" else f"{text},1\n" * 60_000
    opening = {"a.csv": "a,b\n", "a.jsonl": "", "a.json": "[1,\n"}[name]
    good = ("\ufeff" + opening + padding).encode() if name != "a.json" else b"[\n" + b" \n" * 800_000

    error = intake.error(name, good + b'{"a": "caf\xe9"}\n')

    assert error.code == "encoding"
    assert error.line == good.count(b"\n") + 1
    assert f"byte 0xe9 at offset {len(good) + 10:,}" in error.message
    assert "'é'" in (error.hint or "")


def test_a_byte_order_mark_is_left_out(intake: Intake) -> None:
    assert intake.rows("a.csv", "\ufeffa,b\n1,2\n") == [{"a": 1, "b": 2, "_line": 2}]
    assert intake.rows("a.jsonl", '\ufeff{"a": 1}\n') == [{"a": 1, "_line": 1}]
    assert intake.rows("a.json", '\ufeff[{"a": 1}]') == [{"a": 1, "_line": 1}]


def test_jsonl_keeps_types_nested_values_and_lines(intake: Intake) -> None:
    rows = intake.rows(
        "chat.ndjson",
        '{"messages": [{"role": "user", "content": "hi"}], "n": 1, "ok": true}\n\n'
        '{"messages": [{"role": "user", "content": "a", "name": "x"}, null], "n": 2.5, "tags": []}\r\n'
        '{"messages": [], "tags": ["\\u00e9\\u2028"], "meta": {"a": {"b": 1}}}',
    )

    assert [row["_line"] for row in rows] == [1, 3, 4]
    assert [row["n"] for row in rows] == [1.0, 2.5, None]
    assert rows[1]["messages"] == [{"role": "user", "content": "a", "name": "x"}, None]
    assert rows[2]["tags"] == ["é\u2028"]
    assert rows[2]["meta"] == {"a": {"b": 1}}
    assert intake.types == {"messages": "list", "n": "number", "ok": "boolean", "tags": "list", "meta": "object"}


def test_jsonl_widens_and_adds_columns_that_a_late_row_brings(intake: Intake) -> None:
    rows = intake.rows("a.jsonl", '{"n": 1}\n' * 25_000 + '{"n": 1.5, "late": {"x": "y"}}\n' + '{"n": 2}\n' * 20_000)

    assert rows[0] == {"n": 1.0, "late": None, "_line": 1}
    assert rows[25_000] == {"n": 1.5, "late": {"x": "y"}, "_line": 25_001}
    assert len(rows) == 45_001


JSONL_FAULTS = {
    "broken": ('{"a": 1}\n{"a": }\n', "invalid_json", 2, "line 2, character 7 is not JSON"),
    "two values": ('{"a": 1} {"a": 2}\n', "invalid_json", 1, "Extra data"),
    "a list": ('{"a": 1}\n[1]\n', "not_an_object", 2, "row 2 is a list"),
    "a whole array": ('[\n{"a": 1}]\n', "invalid_json", 1, "not JSON"),
    "nan": ('{"a": NaN}\n', "invalid_json", 1, "NaN is not JSON"),
    "infinity": ('{"a": [-Infinity]}\n', "invalid_json", 1, "-Infinity is not JSON"),
    "overflow": ('{"a": 1e999}\n', "not_finite", 1, "'a' is inf"),
    "big integer": (
        '{"a": 1}\n{"a": 9223372036854775808}\n',
        "not_finite",
        2,
        "row 2 (line 2): 'a' is 9223372036854775808",
    ),
    "big nested integer": ('{"a": [9223372036854775808]}\n', "not_finite", 1, "'a[]' is 9223372036854775808"),
    "huge integer": ('{"a": ' + "9" * 5000 + "}\n", "invalid_json", 1, "line 1"),
    "surrogate": ('{"a": "x"}\n{"a": "\\ud800"}\n', "bad_value", 2, "lone surrogate"),
    "nested surrogate": ('{"a": [{"b": "\\udc00"}]}\n', "bad_value", 1, "lone surrogate"),
    "nested surrogate key": ('{"a": {"\\ud800": 1}}\n', "bad_value", 1, "has a key with a lone surrogate"),
    "surrogate key": ('{"\\ud800": 1}\n', "header", 1, "lone surrogate"),
    "mixed": ('{"a": "x"}\n\n{"a": 5}\n', "mixed_types", 3, "'a' is an integer, but a string in row 1 (line 1)"),
    "mixed boolean": ('{"a": 1}\n{"a": true}\n', "mixed_types", 2, "'a' is a boolean, but an integer in row 1"),
    "mixed nested": (
        '{"m": [{"c": "x"}]}\n{"m": [{"c": {"t": 1}}]}\n',
        "mixed_types",
        2,
        "'m[].c' is an object, but a string in row 1",
    ),
    "too deep": ('{"a": ' + "[" * 40 + "]" * 40 + "}\n", "too_deep", 1, "nested deeper than 32"),
    "far too deep": ('{"a": ' + "[" * 100_000 + "\n", "too_deep", 1, "nested too deep"),
    "empty objects": ('{"a": {}}\n', "empty_object", None, "every object in 'a' is empty"),
    "empty name": ('{"": 1}\n', "header", 1, "no name"),
    "reserved name": ('{"_line": 1}\n', "header", 1, "reserved"),
    "no columns": ("{}\n{}\n", "empty", None, "no columns"),
    "columns": ("".join(f'{{"c{n}": 1}}\n' for n in range(21)), "too_many_columns", 21, "more than 20 columns"),
    "keys": (json.dumps({"a": {f"k{n}": 1 for n in range(21)}}), "too_many_columns", 1, "more than 20 different keys"),
    "nul": ('{"a": "\x00"}\n', "nul_byte", 1, "NUL"),
    "long": ('{"a": 1}\n{"a": "' + "x" * (4 << 20), "too_long", 2, "line 2 is longer"),
    "blank": ("\n \n", "empty", None, "no rows"),
}


@pytest.mark.parametrize(("content", "code", "line", "message"), JSONL_FAULTS.values(), ids=JSONL_FAULTS)
def test_jsonl_names_the_place_of_a_fault(intake: Intake, content: str, code: str, line: int, message: str) -> None:
    error = intake.error("a.jsonl", content)

    assert (error.code, error.line) == (code, line)
    assert message in error.message


@pytest.mark.parametrize(
    "content",
    [
        '[{"a": "x"}, {"a": "y"}]',
        '\n[\n  {"a": "x"},\n  {"a":\n "y"}\n]\n',
        '{"data": [{"a": "x"}, {"a": "y"}]}',
        '{"version": 1.5, "meta": {"data": [1]}, "data": [{"a": "x"}, {"a": "y"}], "more": [null, "]"]}',
    ],
)
def test_a_json_array_keeps_row_numbers(intake: Intake, content: str) -> None:
    assert intake.rows("a.json", content) == [{"a": "x", "_line": 1}, {"a": "y", "_line": 2}]


def test_a_json_array_of_many_windows_is_read_whole(intake: Intake) -> None:
    expected = [{"text": "é" * (number % 97), "n": number} for number in range(30_000)]
    content = json.dumps({"n": 12345.678, "data": expected}, ensure_ascii=False)

    rows = intake.rows("a.json", content)

    assert [{"text": row["text"], "n": row["n"]} for row in rows] == expected


JSON_FAULTS = {
    "cut off": ('[\n{"a": 1},\n{"a": 2', "invalid_json", 3, "line 3 is not JSON at character 8"),
    "cut between": ('[{"a": 1},', "invalid_json", 1, "not JSON"),
    "no end": ('[{"a": 1}\n', "invalid_json", 2, "expected ']', found the end of the file"),
    "broken early": ('[{"a": 1},\n{"a" 2},\n' + '{"a": 3},\n' * 400_000, "invalid_json", 2, "not JSON at character 6"),
    "open string": ('[{"a": 1},\n{"a": "\n' + "x" * (5 << 20), "invalid_json", 2, "Invalid control character"),
    "long row": ('[{"a": 1},\n{"a": "' + "x" * (5 << 20), "too_long", 2, "longer than"),
    "json lines": ('{"a": 1}\n{"a": 2}\n', "invalid_json", 2, "after the end"),
    "after the end": ('[{"a": 1}]\n{"a": 2}\n', "invalid_json", 2, "after the end"),
    "no array": ('{"a": 1, "rows": [{}]}', "not_an_array", None, "its keys are a, rows"),
    "text": ('"x"', "invalid_json", 1, "must start an array"),
    "element": ('[{"a": 1},\n 5]', "not_an_object", 2, "row 2 is a number"),
    "nan": ('[{"a": NaN}]', "invalid_json", 1, "NaN is not JSON"),
    "mixed": ('[{"a": 1},\n{"a": "x"}]', "mixed_types", 2, "row 2 (line 2): 'a' is a string, but an integer"),
    "too deep": ('[{"a": ' + "[" * 100_000, "too_deep", 1, "nested too deep"),
    "empty": ("[]", "empty", None, "no rows"),
    "space": (" \n ", "invalid_json", 2, "must start an array"),
}


@pytest.mark.parametrize(("content", "code", "line", "message"), JSON_FAULTS.values(), ids=JSON_FAULTS)
def test_a_json_array_names_the_place_of_a_fault(
    intake: Intake, content: str, code: str, line: int, message: str
) -> None:
    error = intake.error("a.json", content)

    assert (error.code, error.line) == (code, line)
    assert message in error.message


def test_json_in_lines_or_in_one_array_is_reported_by_its_hint(intake: Intake) -> None:
    assert "name it .jsonl" in (intake.error("a.json", '{"a": 1}\n{"a": 2}\n').hint or "")
    assert "name it .json" in (intake.error("a.jsonl", '[\n{"a": 1}\n]').hint or "")


@pytest.mark.parametrize(
    ("name", "content"),
    [("A.CSV.GZ", "a,b\n1,x\n"), ("a.jsonl.gz", '{"a": 1, "b": "x"}'), ("a.json.gz", '[{"a": 1, "b": "x"}]')],
)
def test_gzipped_text_reads_as_plain(intake: Intake, name: str, content: str) -> None:
    (row,) = intake.rows(name, gzip.compress(content.encode()))

    assert (row["a"], row["b"]) == (1, "x")


def test_gzip_bombs_and_broken_gzip_are_refused(intake: Intake) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,x\n" * 100_000)

    assert intake.error("a.csv.gz", gzip.compress(b"a\n" + (b"x" * 1023 + b"\n") * (65 << 10))).code == "too_large"
    assert intake.error("a.csv.gz", whole[: len(whole) // 2]).code == "damaged"
    assert intake.error("a.csv.gz", whole[:200] + b"\0\0\0" + whole[203:]).code == "damaged"
    assert intake.error("a.csv.gz", whole[:5]).code == "damaged"
    assert intake.error("a.parquet.gz", gzip.compress(b"PAR1" + bytes(65 << 20))).code == "too_large"


@pytest.mark.parametrize(
    ("name", "content", "code", "word"),
    [
        ("a.xlsx", b"x", "unknown_format", ".csv, .tsv, .json"),
        ("data", b"x", "unknown_format", "known are"),
        (".csv", b"a,b\n1,2\n", "unknown_format", "known are"),
        ("a.csv", b"", "empty", "empty"),
        ("a.csv", b"PAR1....", "wrong_format", "is Parquet"),
        ("a.csv", b"\x1f\x8b\x08\x00", "wrong_format", "is gzip"),
        ("a.csv", b"PK\x03\x04", "wrong_format", "Excel"),
        ("a.csv.gz", b"a,b\n1,2\n", "wrong_format", "not gzip"),
        ("a.parquet", b"a,b\n1,2\n", "wrong_format", "does not start as Parquet"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "encoding", "UTF-16"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), "nul_byte", "UTF-16"),
    ],
)
def test_a_name_that_does_not_fit_the_content_is_reported(
    intake: Intake, name: str, content: bytes, code: str, word: str
) -> None:
    error = intake.error(name, content)

    assert error.code == code
    assert word in f"{error.message}; {error.hint}"


def _parquet(table: pa.Table, folder: Path) -> bytes:
    path = folder / "made.parquet"
    pq.write_table(table, path, row_group_size=7)
    return path.read_bytes()


def test_parquet_types_are_brought_to_few(intake: Intake, tmp_path: Path) -> None:
    table = pa.table(
        {
            "small": pa.array([1, None], pa.uint8()),
            "half": pa.array([1.5, float("nan")], pa.float32()),
            "whole": pa.array([Decimal(5), None], pa.decimal128(10, 0)),
            "part": pa.array([Decimal("5.25"), None], pa.decimal128(10, 2)),
            "day": pa.array([0, None], pa.date32()),
            "moment": pa.array([0, None], pa.timestamp("s")),
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "long": pa.array(["a", "b"], pa.large_string()),
            "words": pa.array([["a"], None], pa.large_list(pa.large_string())),
            "chat": pa.array(
                [[{"role": "user", "n": 1}], []], pa.list_(pa.struct([("role", pa.string()), ("n", pa.int8())]))
            ),
            "none": pa.nulls(2),
        }
    )

    first, second = intake.rows("a.parquet", _parquet(table, tmp_path))

    assert first == {
        "small": 1,
        "half": 1.5,
        "whole": 5,
        "part": 5.25,
        "day": "1970-01-01",
        "moment": "1970-01-01 00:00:00.000",
        "word": "a",
        "long": "a",
        "words": ["a"],
        "chat": [{"role": "user", "n": 1}],
        "none": None,
        "_line": 1,
    }
    assert (second["half"], second["_line"]) == (None, 2)
    assert intake.types["whole"] == "integer"
    assert intake.types["none"] == "string"
    packed = gzip.compress(_parquet(table, tmp_path))
    assert intake.rows("a.parquet.gz", packed)[0] == first


def test_parquet_that_cannot_be_kept_is_refused_by_column(intake: Intake, tmp_path: Path) -> None:
    image = pa.table({"n": [1], "image": pa.array([{"bytes": b"x"}])})
    infinite = pa.table({"n": [*range(9), 0], "x": [1.0] * 9 + [float("inf")]})
    wide = pa.table({"n": pa.array([2**64 - 1], pa.uint64())})

    refused = intake.error("a.parquet", _parquet(image, tmp_path))
    assert (refused.code, refused.column) == ("unsupported_type", "image.bytes")
    refused = intake.error("a.parquet", _parquet(infinite, tmp_path))
    assert (refused.code, refused.column, refused.row) == ("not_finite", "x", 10)
    assert intake.error("a.parquet", _parquet(wide, tmp_path)).column == "n"
    assert intake.error("a.parquet", _parquet(pa.table({"n": pa.array([], pa.int64())}), tmp_path)).code == "empty"
    assert intake.error("a.parquet", _parquet(pa.table({"_line": [1]}), tmp_path)).code == "header"


def test_parquet_text_that_is_not_utf8_is_refused_by_column(intake: Intake, tmp_path: Path) -> None:
    lying = pa.Array.from_buffers(
        pa.string(),
        1,
        [None, pa.py_buffer((0).to_bytes(4, "little") + (4).to_bytes(4, "little")), pa.py_buffer(b"caf\xe9")],
    )

    error = intake.error("a.parquet", _parquet(pa.table({"n": [1], "text": lying}), tmp_path))

    assert (error.code, error.column) == ("bad_value", "text")


def test_parquet_that_is_cut_or_overwritten_is_damaged(intake: Intake, tmp_path: Path) -> None:
    whole = _parquet(pa.table({"text": [f"text number {number}" for number in range(5000)]}), tmp_path)

    assert intake.error("a.parquet", whole[: len(whole) // 2]).code == "damaged"
    assert intake.error("a.parquet", whole[:-20]).code == "damaged"
    assert intake.error("a.parquet", b"PAR1").code == "damaged"
    assert intake.error("a.parquet", whole[:100] + b"\xff" * 300 + whole[400:]).code == "damaged"
