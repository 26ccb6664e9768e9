"""Uploads that nobody waits for any more, that keep others waiting, or that unpack to more than they should."""

import time
from io import BytesIO
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deployment import Deployment
from refusals import refusal

ROWS = 2_000_000


def big_csv(folder: Path) -> Path:
    path = folder / "big.csv"
    with path.open("w") as file:
        file.write("text,label\n")
        for start in range(0, ROWS, 100_000):
            file.write("".join(f"a film of number {number},good\n" for number in range(start, start + 100_000)))
    return path


def parsers() -> list[int]:
    """The processes of this machine that parse uploads."""
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and b"app.datasets.intake" in _command(path)
    ]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_an_upload_whose_client_left_is_dropped_and_nobody_waits_for_it(local: Deployment, tmp_path: Path) -> None:
    process = local.start_api(TUNESMITH_INTAKE_SLOTS="1")
    other = local.new_key("other")
    big = big_csv(tmp_path)

    def leave() -> None:
        with big.open("rb") as file, pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{local.url}/v1/datasets",
                files={"file": ("big.csv", file)},
                headers={"authorization": f"Bearer {local.key}"},
                timeout=httpx.Timeout(60, read=0.5),
            )

    before = set(parsers())
    leave()
    leave()
    answer = httpx.post(
        f"{local.url}/v1/datasets",
        files={"file": ("a.csv", b"text,label\na,b\n")},
        headers={"authorization": f"Bearer {other}"},
        timeout=60,
    )
    assert answer.status_code == 201

    deadline = time.monotonic() + 30
    while set(parsers()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(parsers()) - before
    assert local.client.get("/v1/datasets")["data"] == []
    assert process.log.count("the client left before") == 2


def parquet(table: pa.Table, **options: object) -> bytes:
    written = BytesIO()
    pq.write_table(table, written, **options)  # type: ignore[arg-type]
    return written.getvalue()


def test_parquet_has_the_limits_of_json(local: Deployment) -> None:
    local.start_api(TUNESMITH_INTAKE_MEMORY_BYTES=str(1024**3))
    many_keys = pa.array([{f"k{number}": 1 for number in range(1500)}] * 2)
    deep: pa.DataType = pa.int64()
    for _ in range(40):
        deep = pa.list_(deep)
    long_text = "x" * (4 * 1024**2)
    bombs = {
        "too_many_columns": parquet(pa.table({"a": many_keys})),
        "too_deep": parquet(pa.table({"a": pa.array([None, None], deep)})),
        # A few kilobytes in the file, 40 GiB in memory.
        "too_large": parquet(
            pa.table({"a": pa.DictionaryArray.from_arrays(pa.array([0] * 9_000), [long_text])}), compression="zstd"
        ),
    }
    assert len(bombs["too_large"]) < 1024**2
    for code, content in bombs.items():
        error = refusal(local.http.post("/v1/datasets", files={"file": ("a.parquet", content)}), 422, code)
        assert "malloc" not in str(error), error
