"""Downloads: a model that a worker published is read back byte for byte, whole or in parts."""

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPConnection
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from attempts import POLICY
from deployment import Deployment, Process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refusal
from sqlalchemy import select, update
from tiny import spec

from app.client import Client
from app.db import Database
from app.identifiers import new_id
from app.jobs import lifecycle
from app.jobs.lifecycle import Lease
from app.jobs.outcomes import Succeeded
from app.jobs.tables import Artifact, Job
from app.storage import Storage, open_storage
from app.storage.folder import FolderStorage

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "empty.txt": b"",
    "model.safetensors": bytes(range(256)) * 11_000,
    "nested/" + "deep-" * 18 + "/tokenizer ü.json": b"{}",
}
WEIGHTS = FILES["model.safetensors"]
SIZE = len(WEIGHTS)


@dataclass(frozen=True)
class Library:
    """A service with a published job, and what its bytes are kept in."""

    url: str
    key: str
    job: str
    storage: Storage


@pytest.fixture(scope="module")
def library(running: tuple[Deployment, Process]) -> Library:
    """A succeeded job with two checkpoints, left by a worker that only published."""
    service = running[0]
    key = service.new_key(f"artifacts-{uuid4().hex}")
    client = Client(service.url, key)
    job_id = client.post("/v1/jobs", spec())["id"]
    # Two stores in one process differ by their settings alone, which are read when they are opened.
    os.environ.update({name: value for name, value in service.settings.items() if name.startswith("AWS_")})
    storage = open_storage(service.settings.get("TUNESMITH_STORAGE_URL", f"file://{service.folder / 'storage'}"))
    database = Database(service.database_url)
    with database.write() as session:
        # A queue of its own: other tests' jobs wait in the same database.
        session.execute(update(Job).where(Job.id == job_id).values(queue="artifacts", needs=None))
        features = session.scalars(select(Job.features).where(Job.id == job_id)).one()
        claimed = lifecycle.claim(session, "tester", ("artifacts",), 600, features)
    assert claimed is not None
    lease = Lease(job_id, claimed.attempt, "tester")
    for step in (6, 12):
        with database.write() as session:
            files = {"model.safetensors": str(step).encode()}
            artifact = _published(storage, lease, "checkpoint", step, files)
            lifecycle.checkpoint(session, lease, artifact, best_step=6)
    with database.write() as session:
        model = _published(storage, lease, "model", 18, FILES)
        lifecycle.conclude(session, lease, Succeeded(model, {"accuracy": 0.5}), POLICY)
    database.close()
    return Library(service.url, key, job_id, storage)


@pytest.fixture
def http(library: Library) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=library.url, headers={"authorization": f"Bearer {library.key}"}, timeout=30) as client:
        yield client


@pytest.fixture
def job(library: Library) -> str:
    return library.job


def _published(storage: Storage, lease: Lease, kind: str, step: int, files: dict[str, bytes]) -> Artifact:
    prefix = f"jobs/{lease.job_id}/a{lease.attempt}/{kind}-{step}"
    stored = {path: storage.put(f"{prefix}/{path}", [content]) for path, content in files.items()}
    return Artifact(
        id=new_id("art"),
        job_id=lease.job_id,
        attempt=lease.attempt,
        kind=kind,
        step=step,
        epoch=1.0,
        is_best=False,
        metrics={"accuracy": 0.5},
        prefix=prefix,
        files=[{"path": path, "size": found.size, "sha256": found.sha256} for path, found in stored.items()],
        manifest_sha256=sha256(f"{lease.job_id}{step}".encode()).hexdigest(),
    )


def test_the_manifest_lists_every_file_and_each_downloads_as_it_was(http: httpx.Client, job: str) -> None:
    page = http.get(f"/v1/jobs/{job}/artifacts").json()
    listed = {item["path"]: item for item in page["data"]}
    assert listed.keys() == FILES.keys()
    for path, content in FILES.items():
        answer = http.get(listed[path]["url"])
        assert (answer.status_code, answer.content) == (200, content)
        assert listed[path]["size"] == len(content) == int(answer.headers["content-length"])
        assert listed[path]["sha256"] == sha256(content).hexdigest()
        assert answer.headers["etag"] == f'"{listed[path]["sha256"]}"'
        assert answer.headers["accept-ranges"] == "bytes"
        head = http.head(listed[path]["url"], headers={"range": "bytes=0-0"})
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": "", "x-request-id": ""} == {**answer.headers, "date": "", "x-request-id": ""}
    assert http.get(f"/v1/jobs/{job}").json()["metrics"] == {"accuracy": 0.5}


def test_a_checkpoint_is_listed_and_downloads_by_its_step(http: httpx.Client, job: str) -> None:
    newest, found = http.get(f"/v1/jobs/{job}/checkpoints").json()["data"]
    assert (newest["step"], found["step"], found["bytes"], found["attempt"]) == (12, 6, 1, 1)
    (file,) = http.get(f"/v1/jobs/{job}/artifacts", params={"checkpoint": 6}).json()["data"]
    assert http.get(file["url"]).content == b"6"
    with tarfile.open(fileobj=io.BytesIO(http.get(found["archive"]).content)) as archive:
        assert archive.getnames() == [f"{job}-step-6/model.safetensors"]
    refusal(http.get(f"/v1/jobs/{job}/artifacts", params={"checkpoint": 7}), 404, "checkpoint_not_found")
    refusal(http.get(f"/v1/jobs/{job}/archive", params={"checkpoint": "x"}), 422)
    refusal(http.get(f"/v1/jobs/{job}/archive", params={"step": 6}), 422, "unknown_parameter")


RANGES = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-99", 0, 100),
    ("bytes=1000000-2000000", 1_000_000, 2_000_001),
    ("bytes=-10", SIZE - 10, SIZE),
    (f"bytes=-{SIZE * 2}", 0, SIZE),
    ("bytes=2000000-", 2_000_000, SIZE),
    (f"bytes={SIZE - 1}-{10**30}", SIZE - 1, SIZE),
    ("Bytes=5-6", 5, 7),
]


@pytest.mark.parametrize(("asked", "start", "end"), RANGES)
def test_a_range_is_answered_with_just_its_bytes(
    http: httpx.Client, job: str, asked: str, start: int, end: int
) -> None:
    answer = http.get(f"/v1/jobs/{job}/artifacts/model.safetensors", headers={"range": asked})
    assert (answer.status_code, answer.content) == (206, WEIGHTS[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 1}", "bytes=-0", f"bytes={10**40}-"])
def test_a_range_beyond_the_end_tells_the_size(http: httpx.Client, job: str, asked: str) -> None:
    answer = http.get(f"/v1/jobs/{job}/artifacts/model.safetensors", headers={"range": asked})
    refusal(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=5-1", "bytes=a-b", "lines=0-1", "bytes=-", "bytes=0-" + "9" * 5000]
)
def test_a_range_that_may_be_ignored_is_answered_whole(http: httpx.Client, job: str, asked: str) -> None:
    answer = http.get(f"/v1/jobs/{job}/artifacts/config.json", headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, FILES["config.json"])


def test_conditions_are_honoured(http: httpx.Client, job: str) -> None:
    url = f"/v1/jobs/{job}/artifacts/config.json"
    etag = http.get(url).headers["etag"]
    for condition in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        same = http.get(url, headers={"if-none-match": condition, "range": "bytes=0-0"})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
        assert same.headers["x-request-id"].startswith("req_")
    assert http.get(url, headers={"if-none-match": '"x"'}).status_code == 200
    assert http.get(url, headers={"range": "bytes=0-0", "if-range": etag}).status_code == 206
    changed = http.get(url, headers={"range": "bytes=0-0", "if-range": '"x"'})
    assert (changed.status_code, changed.content) == (200, FILES["config.json"])


def test_the_archive_is_a_tar_of_all_files_and_always_the_same(http: httpx.Client, job: str) -> None:
    url = f"/v1/jobs/{job}/archive"
    first, second, head = http.get(url), http.get(url), http.head(url)
    assert first.content == second.content
    assert int(first.headers["content-length"]) == len(first.content)
    with tarfile.open(fileobj=io.BytesIO(first.content)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        assert {name: file.read() for name, file in found.items() if file} == {
            f"{job}/{path}": content for path, content in FILES.items()
        }
        assert {(member.mtime, member.mode, member.uid) for member in archive.getmembers()} == {(0, 0o644, 0)}
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(first.content)))
    assert f'filename="{job}.tar"' in first.headers["content-disposition"]
    assert http.get(url, headers={"if-none-match": first.headers["etag"]}).status_code == 304


TRICKS = [
    "..", "../model.safetensors", "nested/../model.safetensors", "%2e%2e/model.safetensors", "%2e%2e%2fconfig.json",
    "%252e%252e/config.json", "%252e%252e%252f%252e%252e%252fetc%252fpasswd", "/etc/passwd", "//etc/passwd",
    "%2fetc%2fpasswd", "..%5cconfig.json", "..\\config.json", "config.json%00", "config.json%00.txt", "%00",
    "./config.json", "nested", "nested/", "", "%20config.json", "config.json/", "%c0%ae%c0%ae/config.json",
    "manifest.json", "CONFIG.JSON", "%ff",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_that_the_manifest_does_not_list_does_not_exist(http: httpx.Client, library: Library, path: str) -> None:
    # Straight to the socket: a client would tidy the path up first.
    address = urlsplit(library.url)
    with closing(_Connection(address.hostname or "", address.port, timeout=30)) as connection:
        for method in ("GET", "HEAD"):
            connection.putrequest(method, f"/v1/jobs/{library.job}/artifacts/{path}", skip_accept_encoding=True)
            connection.putheader("authorization", http.headers["authorization"])
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 404, (answer.status, body)
            assert answer.headers["x-request-id"].startswith("req_")
            assert method == "HEAD" or b'"error"' in body


def test_files_that_storage_lost_are_a_404_and_not_a_fault(http: httpx.Client, library: Library) -> None:
    library.storage.delete(f"jobs/{library.job}/a1/checkpoint-12/model.safetensors")
    answer = http.get(f"/v1/jobs/{library.job}/artifacts/model.safetensors", params={"checkpoint": 12})
    refusal(answer, 404, "object_not_found")


class _Connection(HTTPConnection):
    def _validate_path(self, url: str) -> None:
        """Send what the test wants sent."""


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(first=st.integers(0, 30), last=st.integers(0, 30) | st.none(), suffix=st.booleans())
def test_any_range_of_a_small_file_gives_the_bytes_of_a_slice(
    http: httpx.Client, job: str, first: int, last: int | None, suffix: bool
) -> None:
    content = FILES["config.json"]
    asked = f"bytes=-{first}" if suffix else f"bytes={first}-{'' if last is None else last}"
    answer = http.get(f"/v1/jobs/{job}/artifacts/config.json", headers={"range": asked})
    if suffix:
        expected = content[-first:] if first else None
    elif last is not None and last < first:
        assert (answer.status_code, answer.content) == (200, content)
        return
    else:
        expected = content[first : None if last is None else last + 1] or None
    if expected is None:
        refusal(answer, 416)
    else:
        assert (answer.status_code, answer.content) == (206, expected)


def test_a_redirect_leads_to_the_object_store_if_there_is_one(http: httpx.Client, library: Library) -> None:
    answer = http.get(f"/v1/jobs/{library.job}/artifacts/model.safetensors", params={"redirect": True})
    if isinstance(library.storage, FolderStorage):
        assert (answer.status_code, answer.content) == (200, WEIGHTS)
        return
    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    # Without the key of the service: the address is enough.
    assert httpx.get(answer.headers["location"]).content == WEIGHTS
    part = httpx.get(answer.headers["location"], headers={"range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, WEIGHTS[5:10])


def test_a_client_that_leaves_in_the_middle_harms_nobody(http: httpx.Client, library: Library) -> None:
    address = urlsplit(library.url)
    head = f"GET /v1/jobs/{library.job}/archive HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {library.key}\r\n\r\n"
    for _ in range(5):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    with http.stream("GET", f"/v1/jobs/{library.job}/archive") as answer:
        assert len(answer.read()) == int(answer.headers["content-length"])


def test_one_connection_downloads_file_after_file(http: httpx.Client, library: Library) -> None:
    for _ in range(3):
        for path, content in FILES.items():
            answer = http.get(f"/v1/jobs/{library.job}/artifacts/{path}")
            assert (answer.status_code, answer.content) == (200, content)
