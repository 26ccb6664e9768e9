"""Uploads: every format is taken, what is broken is refused by its place, and nothing is ever left behind."""

import gzip
import io
import json
import os
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deployment import Deployment, Process
from refusals import refusal
from tiny import sentences

from app.settings import Settings
from app.storage import Storage, open_storage

ROWS: list[dict[str, Any]] = [
    {"text": "A joy, from start to end.", "label": "good", "stars": 5},
    {"text": 'Two "hours"\nof my life.', "label": "bad", "stars": 1},
]


def _separated(mark: str) -> bytes:
    cells = [list(ROWS[0]), *[[str(cell).replace('"', '""') for cell in row.values()] for row in ROWS]]
    return "".join(mark.join(f'"{cell}"' for cell in row) + "\r\n" for row in cells).encode()


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


FORMATS: dict[str, Callable[[], bytes]] = {
    "csv": lambda: _separated(","),
    "tsv": lambda: _separated("\t"),
    "json": lambda: json.dumps({"data": ROWS}).encode(),
    "jsonl": lambda: "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "parquet": lambda: _parquet(pa.Table.from_pylist(ROWS)),
}


@pytest.mark.parametrize(("running", "packed"), [("local", ".gz"), ("fleet", "")], indirect=["running"])
@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_holds_the_same_rows(http: httpx.Client, kind: str, packed: str) -> None:
    content = FORMATS[kind]()
    answer = http.post(
        "/v1/datasets", files={"file": (f"reviews.{kind}{packed}", gzip.compress(content) if packed else content)}
    )
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert (dataset["type"], dataset["rows"], dataset["filename"]) == (kind, 2, f"reviews.{kind}{packed}")
    assert {column["name"]: column["type"] for column in dataset["columns"]} == {
        "text": "string",
        "label": "string",
        "stars": "integer",
    }
    page = http.get(f"/v1/datasets/{dataset['id']}/rows").json()
    assert [{name: row[name] for name in ROWS[0]} for row in page["data"]] == ROWS
    assert http.get(f"/v1/datasets/{dataset['id']}").json() == dataset


BROKEN: list[tuple[str, bytes, str, dict[str, Any]]] = [
    # a file, its content, the code, and what the details must hold
    ("quote.csv", b'text,label\na,b\nc,"d\n', "quote", {"row": 2, "line": 3, "column": "label"}),
    ("after.csv", b'text,label\n"a"b,c\n', "quote", {"row": 1, "line": 2, "column": "text"}),
    ("ragged.csv", b"text,label\na,b\nc\n", "ragged_row", {"row": 2, "line": 3}),
    ("latin.csv", 'text,label\na,b\n\n"c\n",\xe9\n'.encode("latin-1"), "encoding", {"row": 2, "line": 5, "column": "label"}),
    ("latin.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "encoding", {"row": 2, "line": 2, "column": "text"}),
    ("utf16.csv", "text,label\na,b\n".encode("utf-16"), "encoding", {}),
    ("nul.csv", b"text,label\na,\0\n", "nul_byte", {"line": 2}),
    ("half.parquet", _parquet(pa.table({"text": ["x"] * 500}))[:300], "damaged", {}),
    ("half.jsonl.gz", gzip.compress(b'{"text": "%s"}\n' % random.Random(1).randbytes(2000).hex().encode())[:500], "damaged", {}),
    ("line.jsonl.gz", gzip.compress(b'{"text": "' + b"x" * (17 << 20)), "too_long", {"line": 1}),
    ("line.json.gz", gzip.compress(b'[{"text": "' + b"x" * (17 << 20)), "too_long", {"row": 1, "line": 1}),
    ("line.csv.gz", gzip.compress(b"text\n" + b"x" * (17 << 20)), "too_long", {"line": 2}),
    ("twice.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n', "duplicate_key", {"row": 2, "line": 2, "column": "a"}),
    ("twice.json", b'[{"a": {"b": 1, "b": 2}}]', "duplicate_key", {"row": 1, "line": 1, "column": "b"}),
    ("nan.jsonl", b'{"a": 1}\n{"a": NaN}\n', "invalid_json", {"row": 2, "line": 2}),
    ("half.jsonl", b'{"a": "\\ud800"}\n', "bad_value", {"row": 1, "line": 1, "column": "a"}),
    ("name.jsonl", b'{"a\\ud800": 1}\n', "header", {"line": 1}),
    ("mixed.jsonl", b'{"a": 1}\n{"a": "x"}\n', "mixed_types", {"row": 2, "line": 2, "column": "a"}),
    ("header.csv", b"text,label\n", "empty", {}),
    ("empty.csv", b"", "empty", {}),
    ("reviews.xlsx", b"PK\x03\x04", "unknown_format", {}),
    ("reviews.csv", b"PK\x03\x04", "wrong_format", {}),
]  # fmt: skip


@pytest.mark.parametrize("running", ["local"], indirect=True)  # files are parsed alike whatever the database
@pytest.mark.parametrize(("name", "content", "code", "place"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_file_that_cannot_be_used_is_refused_by_its_place(
    http: httpx.Client, service: Deployment, name: str, content: bytes, code: str, place: dict[str, Any]
) -> None:
    error = refusal(http.post("/v1/datasets", files={"file": (name, content)}), 422, code)
    assert error["param"] == "file"
    assert {key: error["details"][key] for key in place} == place
    assert http.get("/v1/datasets").json()["data"] == []
    assert _left_behind(service) == []


def test_cells_that_json_and_the_database_cannot_hold_are_shown_as_they_can(http: httpx.Client) -> None:
    table = pa.table({"numbers": [[1.0, float("nan")]], "text": ["a\0b"], "part": [{"k\0": float("inf")}]})
    answer = http.post("/v1/datasets", files={"file": ("odd.parquet", _parquet(table))})
    assert answer.status_code == 201, answer.text
    examples = {column["name"]: column["example"] for column in answer.json()["columns"]}
    assert examples == {"numbers": [1.0, None], "text": "a\ufffdb", "part": {"k\ufffd": None}}
    row = http.get(f"/v1/datasets/{answer.json()['id']}/rows").json()["data"][0]
    assert row == {**examples, "_line": 1}


def test_a_long_name_in_any_script_is_kept_as_a_name_only(http: httpx.Client, service: Deployment) -> None:
    name = "ü" * 120 + "." + "y" * 120 + ".csv"
    answer = http.post("/v1/datasets", files={"file": (f"../../{name}", b"a,b\n1,2\n")})
    assert answer.json()["filename"] == name
    stored = list(_storage(service).list(f"datasets/{answer.json()['id']}"))
    assert sorted(path.rpartition("/")[2] for path in stored) == ["data.parquet", "source.csv"]


PART = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\na,b\n1,2\n\r\n'
NAME = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nmine\r\n'
FORMS = {
    "no boundary": ("multipart/form-data", b""),
    "long boundary": ("multipart/form-data; boundary=" + "x" * 300, b""),
    "not multipart": ("text/csv", b"a,b\n1,2\n"),
    "no file": ("multipart/form-data; boundary=b", NAME + b"--b--\r\n"),
    "two names": ("multipart/form-data; boundary=b", NAME * 2 + PART % (b"file", b"a.csv") + b"--b--\r\n"),
    "a long name": (
        "multipart/form-data; boundary=b",
        NAME.replace(b"mine", b"x" * (4 << 20)) + PART % (b"file", b"a.csv") + b"--b--\r\n",
    ),
    "a name that is no text": (
        "multipart/form-data; boundary=b",
        NAME.replace(b"mine", b"\xff") + PART % (b"file", b"a.csv") + b"--b--\r\n",
    ),
    "no part": ("multipart/form-data; boundary=b", b"--b--\r\n"),
    "another field": ("multipart/form-data; boundary=b", PART % (b"data", b"a.csv") + b"--b--\r\n"),
    "no file name": ("multipart/form-data; boundary=b", PART % (b"file", b"") + b"--b--\r\n"),
    "one file name twice": ("multipart/form-data; boundary=b", PART % (b"file", b"a.csv") * 2 + b"--b--\r\n"),
    "cut off": ("multipart/form-data; boundary=b", PART % (b"file", b"a.csv")),
    "control character": ("multipart/form-data; boundary=b", PART % (b"file", b"a\x07.csv") + b"--b--\r\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_no_upload_is_refused(http: httpx.Client, service: Deployment, form: str) -> None:
    kind, body = FORMS[form]
    refusal(http.post("/v1/datasets", content=body, headers={"content-type": kind}), 422)
    assert _left_behind(service) == []


def _multipart(size: int, after: int = 0) -> Iterator[bytes]:
    yield PART.replace(b"a,b\n1,2\n\r\n", b"") % (b"file", b"big.csv")
    for _ in range(size >> 16):
        yield b"a,b\n" * (1 << 14)
    yield b"\r\n--b--\r\n"
    for _ in range(after >> 16):
        yield b"?" * (1 << 16)


def test_an_upload_over_the_limit_is_refused_as_soon_as_it_is_announced(service: Deployment) -> None:
    # Not a byte of the body is sent: the answer must not wait for it.
    with closing(_connection(service)) as connection:
        _start_upload(connection, service.key, {"content-length": str(_limit(service) * 1000)})
        answer = connection.getresponse()
        assert answer.status == 413
        assert str(_limit(service)) in json.loads(answer.read())["error"]["message"]
    assert _left_behind(service) == []


@pytest.mark.parametrize("case", ["file", "epilogue"])
def test_an_upload_over_the_limit_is_refused_while_it_streams(
    http: httpx.Client, service: Deployment, case: str
) -> None:
    chunks = _multipart(_limit(service) * 2) if case == "file" else _multipart(1 << 16, after=_limit(service) * 2)
    answer = http.post("/v1/datasets", content=chunks, headers={"content-type": "multipart/form-data; boundary=b"})
    refusal(answer, 413, "too_large")
    assert http.get("/v1/datasets").json()["data"] == []
    assert _left_behind(service) == []


def test_an_upload_of_just_the_limit_is_not_too_large(http: httpx.Client, service: Deployment) -> None:
    packed = gzip.compress(b"a,b\n1,2\n")
    content = packed + b"\0" * (_limit(service) - len(packed))
    assert http.post("/v1/datasets", files={"file": ("a.csv.gz", content)}).status_code == 201
    refusal(http.post("/v1/datasets", files={"file": ("a.csv.gz", content + b"\0")}), 413, "too_large")


@pytest.mark.parametrize("key", ["", "Bearer ts_" + "0" * 26 + "_" + "0" * 43])
def test_without_a_good_key_nothing_of_an_upload_is_read(running: tuple[Deployment, Process], key: str) -> None:
    service, api = running
    written_before = _written(api)
    answer = httpx.post(
        f"{service.url}/v1/datasets",
        content=_multipart(50 << 20),
        headers={"content-type": "multipart/form-data; boundary=b", **({"authorization": key} if key else {})},
        timeout=60,
    )
    refusal(answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert _left_behind(service) == []
    assert _written(api) - written_before < 1 << 20


def test_a_client_that_leaves_takes_its_upload_along(running: tuple[Deployment, Process]) -> None:
    service, api = running
    logged = len(api.log)
    with closing(_connection(service)) as connection:
        _start_upload(connection, service.key, {"content-length": str(_limit(service))})
        connection.send(next(_multipart(0)) + b"a,b\n" * 500_000)
        _wait(lambda: bool(_left_behind(service)))
    _wait(lambda: not _left_behind(service))
    assert "Traceback" not in api.log[logged:]


def test_more_uploads_than_slots_wait_their_turn(running: tuple[Deployment, Process], http: httpx.Client) -> None:
    _, api = running
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, len(_children(api)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda n: http.post("/v1/datasets", files={"file": (f"{n}.csv", b"a,b\n1,2\n")}), range(6))
        )
    done.set()
    watcher.join()
    assert [answer.status_code for answer in answers] == [201] * 6
    assert most == Settings.model_fields["intake_slots"].default


FULL = {
    "while it is received": ("big.csv", b"a,b\n" * (5 << 18)),
    "while it is parsed": (
        "big.parquet.gz",
        gzip.compress(_parquet(pa.table({"text": ["x" * 1000] * 10_000}), compression="none", use_dictionary=False)),
    ),
}


@pytest.mark.parametrize("stage", FULL)
def test_a_full_disk_is_said_and_leaves_nothing_behind(
    running: tuple[Deployment, Process], http: httpx.Client, stage: str
) -> None:
    service, api = running
    name, content = FULL[stage]
    _, hard = resource.prlimit(api.popen.pid, resource.RLIMIT_FSIZE)
    # No file may grow beyond this: the kernel then refuses writes as it does on a full disk.
    resource.prlimit(api.popen.pid, resource.RLIMIT_FSIZE, (4_800_000, hard))
    try:
        answer = http.post("/v1/datasets", files={"file": (name, content)})
    finally:
        resource.prlimit(api.popen.pid, resource.RLIMIT_FSIZE, (hard, hard))
    refusal(answer, 507, "insufficient_storage")
    assert http.get("/v1/datasets").json()["data"] == []
    assert _left_behind(service) == []


def test_a_bad_upload_leaves_the_datasets_there_are_as_they_were(http: httpx.Client, service: Deployment) -> None:
    good = http.post("/v1/datasets", files={"file": ("a.csv", b"text,label\na,b\n")}).json()
    before = sorted(_storage(service).list("datasets"))
    refusal(http.post("/v1/datasets", files={"file": ("a.csv", b'text,label\n"a\n')}), 422)
    assert http.get("/v1/datasets").json()["data"] == [good]
    assert sorted(_storage(service).list("datasets")) == before


@pytest.mark.parametrize("running", ["fleet"], indirect=True)
def test_pages_walk_every_dataset_once_newest_first(http: httpx.Client) -> None:
    made = [http.post("/v1/datasets", files={"file": (f"{n}.csv", b"a\n1\n")}).json()["id"] for n in range(3)]
    first = http.get("/v1/datasets", params={"limit": 2}).json()
    second = http.get("/v1/datasets", params={"limit": 2, "after": first["data"][-1]["id"]}).json()
    assert [item["id"] for item in first["data"] + second["data"]] == made[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_page_of_rows_starts_and_ends_where_asked(http: httpx.Client) -> None:
    content = "".join(json.dumps(row) + "\n" for row in sentences(30)).encode()
    base = f"/v1/datasets/{http.post('/v1/datasets', files={'file': ('a.jsonl', content)}).json()['id']}/rows"
    first = http.get(base).json()
    assert (len(first["data"]), first["has_more"]) == (10, True)
    last = http.get(base, params={"start": 28, "limit": 100}).json()
    assert ([row["_line"] for row in last["data"]], last["has_more"]) == ([29, 30], False)
    assert http.get(base, params={"start": 30}).json() == {"object": "list", "data": [], "has_more": False}
    for query in ({"limit": 0}, {"limit": 10**9}, {"start": -1}, {"start": 2**70}, {"limit": "x"}, {"page": 2}):
        assert refusal(http.get(base, params=query), 422)["param"] == next(iter(query))
    assert "less than or equal to 100" in refusal(http.get(base, params={"limit": 10**9}), 422)["message"]


def test_large_rows_come_in_smaller_pages(http: httpx.Client) -> None:
    lines = "".join(json.dumps({"text": chr(97 + n) * 9_000_000}) + "\n" for n in range(5))
    answer = http.post("/v1/datasets", files={"file": ("large.jsonl.gz", gzip.compress(lines.encode(), 1))})
    seen: list[str] = []
    while True:
        page = http.get(f"/v1/datasets/{answer.json()['id']}/rows", params={"start": len(seen)}).json()
        assert len(page["data"]) < 4
        seen += [row["text"][0] for row in page["data"]]
        if not page["has_more"]:
            break
    assert seen == list("abcde")


def _storage(service: Deployment) -> Storage:
    for name, value in service.settings.items():
        if name.startswith("AWS_"):
            os.environ[name] = value
    url = service.settings.get("TUNESMITH_STORAGE_URL", f"file://{service.folder / 'storage'}")
    return open_storage(url)


def _limit(service: Deployment) -> int:
    return int(service.settings["TUNESMITH_UPLOAD_LIMIT_BYTES"])


def _written(api: Process) -> int:
    counters = dict(line.split(": ") for line in Path(f"/proc/{api.popen.pid}/io").read_text().splitlines())
    return int(counters["wchar"])


def _children(api: Process) -> list[str]:
    tasks = Path(f"/proc/{api.popen.pid}/task").glob("*/children")
    return [child for task in tasks for child in task.read_text().split()]


def _left_behind(service: Deployment) -> list[Path]:
    return list((service.folder / "cache" / "uploads").glob("*"))


def _connection(service: Deployment) -> HTTPConnection:
    address = urlsplit(service.url)
    return HTTPConnection(address.hostname or "", address.port, timeout=30)


def _start_upload(connection: HTTPConnection, key: str, headers: dict[str, str]) -> None:
    connection.putrequest("POST", "/v1/datasets")
    for name, value in {
        "authorization": f"Bearer {key}",
        "content-type": "multipart/form-data; boundary=b",
        **headers,
    }.items():
        connection.putheader(name, value)
    connection.endheaders()


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
