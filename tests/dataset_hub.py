"""A dataset hub on 127.0.0.1: repositories of files in memory, given out by the hub's own routes, and a count of what was sent."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
MISSING = {"RepoNotFound": "no repository", "RevisionNotFound": "no revision", "EntryNotFound": "no file"}


@dataclass
class Repository:
    """The files of each commit, and the commits that branches and tags are."""

    commits: dict[str, Files]
    refs: dict[str, str]

    @classmethod
    def of(cls, **branches: Files) -> "Repository":
        """One commit a branch."""
        refs = {name: hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest() for name in branches}
        return cls({refs[name]: files for name, files in branches.items()}, refs)

    def commit(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit."""
        found = self.refs.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class Served:
    """What was asked for and sent."""

    requests: list[str] = field(default_factory=list)
    file_bytes: int = 0


class DatasetHub(ThreadingHTTPServer):
    """The server. `repositories` may be changed at any time."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository]) -> None:
        super().__init__(("127.0.0.1", 0), HubAnswers)
        self.repositories, self.served, self.lock = repositories, Served(), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who has enough closes the connection; that is no error."""


class HubAnswers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DatasetHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.served.requests.append(f"{self.command} {self.path}")
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            self._tree(match[1], match[2], match[3] or "")
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._missing("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815 - http.server names it

    def log_message(self, *_: object) -> None:
        return

    def _found(self, name: str, revision: str) -> tuple[str, Files] | None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self._missing("RepoNotFound")
        commit = repository.commit(revision)
        return self._missing("RevisionNotFound") if commit is None else (commit, repository.commits[commit])

    def _info(self, name: str, revision: str) -> None:
        if found := self._found(name, revision):
            commit, files = found
            self._json({"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})

    def _tree(self, name: str, revision: str, folder: str) -> None:
        if found := self._found(name, revision):
            entries = [entry for entry in _entries(found[1]) if _is_in(entry["path"], folder)]
            wanted = (
                entries if "recursive=true" in self.path.lower() else [e for e in entries if _depth(e, folder) == 1]
            )
            self._json(wanted) if wanted or not folder else self._missing("EntryNotFound")

    def _file(self, name: str, revision: str, path: str) -> None:
        if not (found := self._found(name, revision)):
            return
        commit, files = found
        if path not in files:
            self._missing("EntryNotFound", {"x-repo-commit": commit})
            return
        whole = files[path]
        facts = {"etag": f'"{_oid(whole)}"', "x-repo-commit": commit, "accept-ranges": "bytes"}
        if match := RANGE.fullmatch(self.headers.get("range", "")):
            first, last = int(match[1]), min(int(match[2] or len(whole) - 1), len(whole) - 1)
            self._send(206, whole[first : last + 1], {**facts, "content-range": f"bytes {first}-{last}/{len(whole)}"})
        else:
            self._send(200, whole, facts)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"content-type": "application/json"}, counts=False)

    def _missing(self, code: str, headers: Mapping[str, str] | None = None) -> None:
        more = {"x-error-code": code, "x-error-message": MISSING[code], **(headers or {})}
        self._send(404, json.dumps({"error": MISSING[code]}).encode(), more, counts=False)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], *, counts: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(body), 1 << 16):
            part = body[start : start + (1 << 16)]
            self.wfile.write(part)
            if counts:
                with self.server.lock:
                    self.server.served.file_bytes += len(part)


@contextmanager
def dataset_hub(**repositories: Repository) -> Iterator[DatasetHub]:
    """A hub of `someone/NAME`, until the block ends."""
    server = DatasetHub({f"someone/{name}": repository for name, repository in repositories.items()})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(hub: str, home: Path) -> dict[str, str]:
    """What a process needs in its environment to use this hub and nothing else."""
    return {
        "HF_ENDPOINT": hub,
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_DATASETS_CACHE": str(home / "datasets"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "*",
    }


def _entries(files: Files) -> list[dict[str, Any]]:
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    return [
        *({"type": "directory", "path": path, "size": 0, "oid": _oid(path.encode())} for path in sorted(folders)),
        *({"type": "file", "path": path, "size": len(body), "oid": _oid(body)} for path, body in files.items()),
    ]


def _is_in(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _depth(entry: dict[str, Any], folder: str) -> int:
    return len(PurePosixPath(entry["path"]).relative_to(folder or ".").parts)


def _oid(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()
