import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "/v1/jobs/job_x/artifacts"


def entry(path: str, body: bytes) -> dict[str, Any]:
    return {
        "path": path,
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "url": f"{MANIFEST}/{path}",
    }


def test_files_of_no_bytes_and_odd_names_arrive(service: Any, tunesmith: Callable[..., Any], tmp_path: Path) -> None:
    files = {"merges.txt": b"", "sub/[/INST].txt": b"text"}
    service.answers[MANIFEST] = [(200, {"data": [entry(path, body) for path, body in files.items()]})]
    service.answers[f"{MANIFEST}/sub/%5B/INST%5D.txt"] = [(200, files["sub/[/INST].txt"])]
    folder = tmp_path / "run [/x]"
    for _ in range(2):
        ended = tunesmith("download", "job_x", str(folder))
        assert ended.code == 0, ended
        assert f"2 files in {folder}; every sha256 was verified." in ended.out
        assert {path: (folder / path).read_bytes() for path in files} == files
    assert not list(folder.rglob("*.part"))


def test_a_folder_that_cannot_be_made_is_reported(service: Any, tunesmith: Callable[..., Any], tmp_path: Path) -> None:
    service.answers[MANIFEST] = [(200, {"data": [entry("config.json", b"{}")]})]
    (tmp_path / "file").write_text("in the way")
    ended = tunesmith("download", "job_x", str(tmp_path / "file" / "model"))
    assert ended.code == 2
    assert "Not a directory" in ended.err
