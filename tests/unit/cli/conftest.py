"""The command line in this process, and a service of canned answers over real HTTP."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.cli import console, errors, main

KEY = "ts_" + "0" * 26 + "_" + "x" * 43


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only setting in force, of a folder that is not there yet."""
    for name in os.environ:
        if name.startswith("TUNESMITH_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "data"
    monkeypatch.setenv("TUNESMITH_DATA_DIR", str(folder))
    monkeypatch.setattr(console, "width", 200)
    monkeypatch.setattr(errors, "width", 200)
    return folder


@pytest.fixture
def tunesmith(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Run `tunesmith ARGUMENTS` as its console script does."""

    def run(*arguments: str) -> Said:
        monkeypatch.setattr("sys.argv", ["tunesmith", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Said(int(ended.value.code or 0), printed.out, printed.err)

    return run


@dataclass
class Service:
    """Answers each path with its next answer, a status and JSON or bytes; the last one for ever."""

    url: str
    answers: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def service(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service of canned answers, which the command line is pointed at."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            given.asked.append(path)
            answers = given.answers[path]
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    given = Service(f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("TUNESMITH_URL", given.url)
    monkeypatch.setenv("TUNESMITH_API_KEY", KEY)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield given
    server.shutdown()
    server.server_close()
    thread.join()
