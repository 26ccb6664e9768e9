import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import huggingface_hub.constants
import pytest

from worker.training.errors import HubUnreachable, ModelNotFound, ModelRefused
from worker.training.models.hub import WANTED, fetch
from worker.training.models.model_files import check_weights
from worker.training.reports import Reporter

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"not wanted",
    "pytorch_model.bin": b"not wanted either",
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "vocab.txt": b"a\nb\n",
}
FETCH = """
import sys
from pathlib import Path
from worker.training.errors import TrainingError
from worker.training.models.hub import fetch
from worker.training.reports import Reporter
try:
    print(*fetch(*sys.argv[1:3], Reporter(Path(sys.argv[3]))))
except TrainingError as error:
    print(error.code)
"""


class Hub(ThreadingHTTPServer):
    """One model, `someone/model`, as the hub's own routes give it out."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubAnswers)
        self.slow: list[bytes] = []
        """If set, the weights: pieces that are sent a second and a half apart. The client writes 10 MiB at a time."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def go_down(self) -> None:
        self.shutdown()
        self.server_close()


class HubAnswers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/models/someone/model/revision/main":
            self._json({"id": "someone/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]})
        elif path == f"/api/models/someone/model/tree/{COMMIT}":
            self._json(
                [{"type": "file", "path": name, "size": len(body), "oid": _etag(body)} for name, body in FILES.items()]
            )
        elif path.startswith(f"/someone/model/resolve/{COMMIT}/"):
            self._file(path.rpartition("/")[2])
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 - http.server names it

    def log_message(self, *_: object) -> None:
        return

    def _json(self, value: object) -> None:
        self._answer(json.dumps(value).encode(), {"content-type": "application/json"})

    def _file(self, name: str) -> None:
        pieces = cast("Hub", self.server).slow
        if name == "model.safetensors" and pieces:
            self._send_slowly(pieces)
            return
        self._answer(FILES[name], {"etag": f'"{_etag(FILES[name])}"', "x-repo-commit": COMMIT})

    def _send_slowly(self, pieces: list[bytes]) -> None:
        body = b"".join(pieces)
        self.send_response(200)
        headers = {"etag": f'"{_etag(body)}"', "x-repo-commit": COMMIT, "content-length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in pieces if self.command == "GET" else ():
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(1.5)

    def _answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.go_down()
    thread.join()


@pytest.fixture
def fetch_apart(hub: Hub, tmp_path: Path) -> Callable[[str], str]:
    """Fetches in a process of its own, as each job does, and returns what it says: folder and commit, or an error."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "no_proxy": "*",
    }
    environment.pop("HF_HUB_CACHE", None)

    def ask(revision: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", FETCH, "someone/model", revision, str(tmp_path / "out")],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout.strip()

    return ask


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_branch_that_was_fetched_is_found_while_the_hub_is_down(hub: Hub, fetch_apart: Callable[[str], str]) -> None:
    folder, commit = fetch_apart("main").split()
    assert commit == COMMIT
    assert {path.name for path in Path(folder).iterdir()} == {"config.json", "model.safetensors", "vocab.txt"}
    hub.go_down()
    assert fetch_apart("main") == f"{folder} {COMMIT}"
    assert fetch_apart(COMMIT) == f"{folder} {COMMIT}"
    assert fetch_apart("other") == "hub_unreachable"


def test_a_slow_download_reports_its_bytes(
    hub: Hub, fetch_apart: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.slow = [b"weights" * 2_000_000] * 3
    monkeypatch.setitem(FILES, "model.safetensors", b"".join(hub.slow))
    fetch_apart("main")
    records = [json.loads(line) for line in (tmp_path / "out" / "reports.jsonl").read_text().splitlines()]
    assert [record["phase"] for record in records if "phase" in record] == ["downloading", "preparing"]
    downloads = [record["preflight"]["download"] for record in records if "preflight" in record]
    received = [download["bytes"] for download in downloads]
    assert len(received) >= 2
    assert received == sorted(set(received))
    assert {(download["source"], download["of_bytes"]) for download in downloads} == {
        ("model someone/model", sum(len(FILES[name]) for name in ("config.json", "model.safetensors", "vocab.txt")))
    }
    assert all(download["eta_seconds"] >= 0 for download in downloads)


def test_half_a_model_in_the_cache_is_not_taken_for_it(hub: Hub, fetch_apart: Callable[[str], str]) -> None:
    folder = Path(fetch_apart("main").split()[0])
    hub.go_down()
    (folder / "vocab.txt").unlink()
    assert fetch_apart("main") == "hub_unreachable"
    assert fetch_apart(COMMIT) == "hub_unreachable"


def test_a_worker_that_may_not_use_the_hub_knows_that_another_attempt_is_in_vain(cache: Path) -> None:
    (cache / "models--google-bert--bert-base-cased").mkdir()
    with pytest.raises(ModelNotFound, match="Did you mean 'google-bert/bert-base-cased'") as caught:
        fetch("google-bert/bert-base-casd", "main", Reporter(cache))
    assert not caught.value.failure.retryable
    assert "HF_HUB_OFFLINE" in caught.value.failure.message


def test_an_unreachable_hub_is_reported_and_may_be_retried(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(HubUnreachable, match="google-bert/bert-base-cased") as caught:
        fetch("google-bert/bert-base-cased", "main", Reporter(cache))
    assert caught.value.failure.retryable
    assert "local:NAME" in caught.value.failure.hint


def test_a_cache_that_another_tool_filled_is_used_if_it_has_weights(cache: Path) -> None:
    snapshot = cache / "models--someone--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match="someone/model"):
        fetch("someone/model", COMMIT, Reporter(cache))
    (snapshot / "model.safetensors").write_bytes(b"weights")
    assert fetch("someone/model", COMMIT, Reporter(cache)) == (snapshot, COMMIT)


@pytest.mark.parametrize("revision", ["../../secret", "/etc/passwd", "refs/../.."])
def test_a_revision_is_no_path(cache: Path, revision: str) -> None:
    with pytest.raises(ModelNotFound, match="not the name of a branch"):
        fetch("someone/model", revision, Reporter(cache))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "vocab.txt",
        "spm.model",
    ],
)
def test_what_a_model_needs_is_fetched(name: str) -> None:
    assert WANTED.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "modeling_x.py", "onnx/model.onnx", "model.fp16.safetensors", "x/model.safetensors"]
)
def test_pickles_code_and_other_variants_are_not(name: str) -> None:
    assert not WANTED.fullmatch(name)


def test_a_model_with_neither_kind_of_weights_is_refused() -> None:
    with pytest.raises(ModelRefused, match="has no weights"):
        check_weights(["config.json"], "m")
