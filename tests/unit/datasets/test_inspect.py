"""The process that parses: what it returns, and that it ends, whatever happens in it."""

import gzip
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app.datasets.inspect import Column, InspectedFile, IntakeLimit, UnusableFile, UploadLimits, inspect

GIB = 1 << 30


def test_a_file_is_inspected_and_kept(tmp_path: Path) -> None:
    source, parquet = tmp_path / "upload", tmp_path / "data.parquet"
    source.write_text("text,label\ngood,1\nbad,0\n,1\n")

    found = inspect([(source, "reviews.csv")], parquet, limits=UploadLimits())

    assert (found.format, found.files, found.rows) == ("csv", [InspectedFile("csv", compressed=False, rows=3)], 3)
    assert found.columns == [Column("text", "string", 1, 2, "good"), Column("label", "integer", 0, 2, 1)]
    assert pq.read_table(parquet).column_names == ["text", "label", "_line"]


def test_several_files_are_one_parquet_with_the_file_of_each_row(tmp_path: Path) -> None:
    parquet = tmp_path / "data.parquet"
    files = _files(tmp_path, {"a.csv": "text,label\ngood,1\nbad,0\n", "b.jsonl.gz": '\n{"label": 0.5, "text": "so"}\n'})

    found = inspect(files, parquet, limits=UploadLimits())

    assert (found.format, found.rows) == ("mixed", 3)
    assert found.files == [
        InspectedFile("csv", compressed=False, rows=2),
        InspectedFile("jsonl", compressed=True, rows=1),
    ]
    assert [(column.name, column.type, column.distinct) for column in found.columns] == [
        ("text", "string", 3),
        ("label", "number", 3),
    ]
    assert pq.read_table(parquet).to_pylist() == [
        {"text": "good", "label": 1.0, "_line": 2, "_file": "a.csv"},
        {"text": "bad", "label": 0.0, "_line": 3, "_file": "a.csv"},
        {"text": "so", "label": 0.5, "_line": 2, "_file": "b.jsonl.gz"},
    ]
    assert str(pq.read_schema(parquet).field("_file").type).startswith("dictionary")
    assert sorted(tmp_path.iterdir()) == sorted([parquet, *(path for path, _ in files)])


def test_a_fault_in_one_of_several_files_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    files = _files(tmp_path, {"a.csv": "text,label\ngood,1\n", "b.csv": "text,label\ngood,1\nbad\n"})

    with pytest.raises(UnusableFile, match=r"^'b\.csv': line 3 has 1 cell, the header has 2") as raised:
        inspect(files, tmp_path / "data.parquet", limits=UploadLimits())

    assert (raised.value.file, raised.value.code, raised.value.line) == ("b.csv", "ragged_row", 3)
    assert sorted(tmp_path.iterdir()) == sorted(path for path, _ in files)


def _files(folder: Path, contents: dict[str, str]) -> list[tuple[Path, str]]:
    files = [(folder / f"upload-{number}", name) for number, name in enumerate(contents)]
    for path, name in files:
        content = contents[name].encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return files


def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("upload").write_text('{"text": "a"}\n')

    assert inspect([(Path("upload"), "a.jsonl")], Path("out/data.parquet"), limits=UploadLimits()).rows == 1


def test_a_fault_crosses_the_process_with_its_place_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "upload"
    source.write_text("text,label\ngood,1\nbad\n")

    with pytest.raises(UnusableFile, match="line 3 has 1 cell, the header has 2") as raised:
        inspect([(source, "reviews.csv")], tmp_path / "data.parquet", limits=UploadLimits())

    assert (raised.value.code, raised.value.row, raised.value.line) == ("ragged_row", 2, 3)
    assert raised.value.hint
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    source = tmp_path / "upload"
    os.mkfifo(source)  # opening it waits for a writer, who never comes
    started = time.monotonic()

    with pytest.raises(IntakeLimit, match="more than 1 s") as raised:
        inspect([(source, "a.csv")], tmp_path / "data.parquet", limits=UploadLimits(timeout_seconds=1))

    assert raised.value.code == "intake_time"
    assert time.monotonic() - started < 10


def test_a_file_that_takes_too_much_memory_is_stopped(tmp_path: Path) -> None:
    source = tmp_path / "upload"
    with source.open("w") as file:
        file.write('a\n"')
        for _ in range(500):
            file.write("x" * (1 << 20) + "\n")
        file.write('"\n')
    limits = UploadLimits(memory_bytes=GIB, record_bytes=GIB)

    with pytest.raises(IntakeLimit, match="more than 1 GiB of memory") as raised:
        inspect([(source, "a.csv")], tmp_path / "data.parquet", limits=limits)

    assert raised.value.code == "intake_memory"


def test_a_process_that_is_killed_is_reported_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "upload"
    os.mkfifo(source)
    with ThreadPoolExecutor() as pool:
        result = pool.submit(
            inspect, [(source, "a.csv")], tmp_path / "data.parquet", limits=UploadLimits(timeout_seconds=20)
        )
        os.kill(_parser(), signal.SIGKILL)

    with pytest.raises(UnusableFile, match="was ended by SIGKILL") as raised:
        result.result()
    assert raised.value.code == "intake_crashed"


def _parser() -> int:
    while True:
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in children.read_text().split():
                if b"app.datasets.intake" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
        time.sleep(0.01)


def test_no_secret_reaches_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The process writes what it sees of our environment through a stand-in for the interpreter's start-up hook.
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\nenv > {tmp_path}/seen\nexec {sys.executable} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(spy))
    monkeypatch.setenv("TUNESMITH_API_KEY", "s3cret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    source = tmp_path / "upload"
    source.write_text("a,b\n1,2\n")

    inspect([(source, "a.csv")], tmp_path / "data.parquet", limits=UploadLimits())

    assert "s3cret" not in (tmp_path / "seen").read_text()
    assert "PYTHONPATH=" in (tmp_path / "seen").read_text()
