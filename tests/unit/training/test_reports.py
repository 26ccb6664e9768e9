import json
import math
import resource
import threading
from pathlib import Path

import pytest

from worker.training.reports import Record, Reporter


def read(folder: Path) -> list[Record]:
    return [json.loads(line) for line in (folder / "reports.jsonl").read_text().splitlines()]


def test_records_are_whole_lines_with_type_and_time(tmp_path: Path) -> None:
    seen: list[Record] = []
    report = Reporter(tmp_path, seen.append)
    report.phase("training")
    report.note("line\nbreak \ud800")
    report.result("succeeded", 3, metrics={"eval_loss": 1.0})
    records = read(tmp_path)
    assert [record["type"] for record in records] == ["phase", "note", "result"]
    assert all(record["time"] > 1.7e9 for record in records)
    assert seen == records


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    Reporter(tmp_path).metric(1, 0.5, {"loss": math.nan, "grad_norm": math.inf, "learning_rate": 0.1})
    assert read(tmp_path)[0]["values"] == {"loss": None, "grad_norm": None, "learning_rate": 0.1}


def test_half_a_line_of_a_killed_attempt_is_dropped(tmp_path: Path) -> None:
    Reporter(tmp_path).note("whole")
    with (tmp_path / "reports.jsonl").open("a") as file:
        file.write('{"type": "no')
    Reporter(tmp_path).note("next")
    assert [record["message"] for record in read(tmp_path)] == ["whole", "next"]


def test_a_record_that_the_disk_takes_in_part_leaves_no_half_line(tmp_path: Path) -> None:
    report = Reporter(tmp_path)
    report.note("whole")
    size = (tmp_path / "reports.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel takes the first 100 bytes of the next line, and then no more, like a disk that fills up.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            report.note("x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "reports.jsonl").stat().st_size == size
    report.note("next")
    assert [record["message"] for record in read(tmp_path)] == ["whole", "next"]


def test_a_listener_that_fails_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Record) -> None:
        raise ValueError("no terminal")

    Reporter(tmp_path, broken).note("reported")
    assert [record["message"] for record in read(tmp_path)] == ["reported"]
    assert "no terminal" in caplog.text


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    report = Reporter(tmp_path)
    threads = [threading.Thread(target=lambda: [report.note("x" * 5000) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(tmp_path)) == 200
