"""Every store keeps the same promises: a local folder and S3 over HTTP go through the same tests."""

import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.storage import (
    InvalidPath,
    ObjectNotFound,
    Storage,
    StorageError,
    StorageFull,
    StorageUnavailable,
    open_storage,
)
from tests.servers import S3Server, s3_server

MIB = 1 << 20
BIG = [bytes([number]) * MIB for number in range(23)]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "file":
        return open_storage(f"file://{tmp_path}/a%20store")
    server: S3Server = request.getfixturevalue("s3")
    return open_storage(f"{server.storage_url}/{uuid4().hex}")


def test_reads_back_what_was_put(storage: Storage) -> None:
    stored = storage.put("jobs/1/model.bin", iter([b"abc", b"", b"def"]))

    assert stored.size == storage.size("jobs/1/model.bin") == 6
    assert stored.sha256 == hashlib.sha256(b"abcdef").hexdigest()
    assert b"".join(storage.read("jobs/1/model.bin")) == b"abcdef"


def test_puts_objects_of_many_parts(storage: Storage) -> None:
    stored = storage.put("big", iter(BIG))

    assert stored.size == storage.size("big") == 23 * MIB
    assert stored.sha256 == hashlib.sha256(b"".join(BIG)).hexdigest()
    assert b"".join(storage.read("big")) == b"".join(BIG)
    assert b"".join(storage.read("big", 9 * MIB - 1, 18 * MIB + 1)) == b"\x08" + b"".join(BIG[9:18]) + b"\x12"


def test_keeps_empty_objects(storage: Storage) -> None:
    assert storage.put("empty", []).size == storage.size("empty") == 0
    assert list(storage.read("empty")) == []


def test_replaces_an_object(storage: Storage) -> None:
    storage.put("a", [b"old and long"])
    storage.put("a", [b"new"])

    assert b"".join(storage.read("a")) == b"new"


def test_puts_a_local_file(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"".join(BIG[:7]))

    stored = storage.put_file("copy", source)

    assert stored.sha256 == hashlib.sha256(b"".join(BIG[:7])).hexdigest()
    with pytest.raises(FileNotFoundError):
        storage.put_file("copy", tmp_path / "missing")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 5, b"34"),
        (8, 99, b"89"),
        (4, 4, b""),
        (10, None, b""),
        (99, 100, b""),
    ],
)
def test_reads_ranges_cut_at_the_size(storage: Storage, start: int, end: int | None, expected: bytes) -> None:
    storage.put("digits", [b"0123456789"])

    assert b"".join(storage.read("digits", start, end)) == expected


@pytest.mark.parametrize("chunks", [BIG[:1], BIG])
def test_a_failed_put_raises_its_reason_and_leaves_nothing(storage: Storage, chunks: list[bytes]) -> None:
    def broken() -> Iterator[bytes]:
        yield from chunks
        raise FileNotFoundError("the source broke")

    with pytest.raises(FileNotFoundError, match="the source broke"):
        storage.put("jobs/half", broken())

    assert list(storage.list("")) == []
    with pytest.raises(ObjectNotFound):
        storage.size("jobs/half")


def test_a_failed_put_keeps_the_older_object(storage: Storage) -> None:
    def broken() -> Iterator[bytes]:
        yield b"new"
        raise ValueError("stop")

    storage.put("a", [b"old"])
    with pytest.raises(ValueError, match="stop"):
        storage.put("a", broken())

    assert b"".join(storage.read("a")) == b"old"


def test_a_missing_object_is_refused_before_the_first_chunk(storage: Storage) -> None:
    storage.put("folder/a", [b"a"])

    for missing in ("nothing", "folder", "folder/a/b"):
        with pytest.raises(ObjectNotFound, match="there is no object"):
            storage.read(missing)
        with pytest.raises(ObjectNotFound):
            storage.size(missing)


def test_lists_the_objects_of_a_folder(storage: Storage) -> None:
    for path in ("a/b/1", "a/b/2", "a/bc", "a/b c/ü%20?#+", "d"):
        storage.put(path, [b"x"])

    assert sorted(storage.list("a/b")) == sorted(storage.list("a/b/")) == ["a/b/1", "a/b/2"]
    assert sorted(storage.list("")) == ["a/b c/ü%20?#+", "a/b/1", "a/b/2", "a/bc", "d"]
    assert list(storage.list("none")) == list(storage.list("d")) == []
    assert b"".join(storage.read("a/b c/ü%20?#+")) == b"x"


def test_deletes_one_object_and_forgives_a_missing_one(storage: Storage) -> None:
    storage.put("a/1", [b"x"])
    storage.put("a/2", [b"x"])

    storage.delete("a/1")
    storage.delete("a/1")
    storage.delete("a")

    assert list(storage.list("")) == ["a/2"]


def test_deletes_a_folder_and_nothing_beside_it(storage: Storage) -> None:
    for path in ("a/b/1", "a/b/c/2", "a/bc"):
        storage.put(path, [b"x"])

    storage.delete_prefix("a/b")
    storage.delete_prefix("a/b")

    assert list(storage.list("")) == ["a/bc"]
    with pytest.raises(InvalidPath):
        storage.delete_prefix("")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../out",
        "a/../../out",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "a\0b",
        "a\nb",
        "\ud800",
        "x" * 300,
        "a/" * 600 + "a",
        ".put-mine",
        ".put-mine/a",
    ],
)
def test_refuses_paths_that_are_malformed_or_leave_the_root(storage: Storage, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.put(path, [b"x"]),
        lambda: storage.read(path),
        lambda: storage.size(path),
        lambda: storage.delete(path),
    ]
    for call in calls:
        with pytest.raises(InvalidPath):
            call()


def test_a_store_that_answers_passes_its_check(storage: Storage) -> None:
    storage.check()

    assert storage.sweep_temporary(0) == 0
    assert list(storage.list("")) == []


@pytest.mark.parametrize("url", ["ftp://host/x", "/just/a/folder", "file://relative/folder", "file:relative", "s3://"])
def test_an_unusable_url_is_refused_with_what_would_do(url: str) -> None:
    with pytest.raises(StorageError, match="storage URL"):
        open_storage(url)


def test_a_folder_refuses_to_go_through_links(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}/store")
    (tmp_path / "secret").write_text("s")
    (tmp_path / "store" / "out").symlink_to(tmp_path)
    (tmp_path / "store" / "file").symlink_to(tmp_path / "secret")
    (tmp_path / "store" / "loop").symlink_to("loop")

    for path in ("out/secret", "file", "loop"):
        with pytest.raises(InvalidPath, match="symbolic link"):
            storage.read(path)
        with pytest.raises(InvalidPath, match="symbolic link"):
            storage.put(path, [b"x"])
    with pytest.raises(InvalidPath, match="symbolic link"):
        storage.delete_prefix("out")
    assert list(storage.list("")) == []
    assert (tmp_path / "secret").read_text() == "s"


def test_a_folder_says_when_an_object_and_a_folder_clash(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}")
    storage.put("a/b", [b"x"])

    for path in ("a", "a/b/c"):
        with pytest.raises(InvalidPath, match="clashes"):
            storage.put(path, [b"x"])


def test_a_killed_put_is_hidden_and_swept(tmp_path: Path) -> None:
    code = (
        "import sys, time; from app.storage import open_storage\n"
        "def chunks():\n  yield b'x' * 100; print('on', flush=True); time.sleep(60); yield b'y'\n"
        "open_storage(sys.argv[1]).put('a/b', chunks())"
    )
    with subprocess.Popen([sys.executable, "-c", code, f"file://{tmp_path}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGKILL)
    storage = open_storage(f"file://{tmp_path}")

    assert len(list((tmp_path / "a").iterdir())) == 1
    assert list(storage.list("")) == []
    assert storage.sweep_temporary(3600) == 0
    assert storage.sweep_temporary(0) == 1
    assert list((tmp_path / "a").iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(StorageFull, match="no room"):
            storage.put("a", BIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_went_away_fails_its_check(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}/store")
    (tmp_path / "store").rmdir()

    with pytest.raises(StorageUnavailable, match="gone"):
        storage.check()


def test_an_object_replaced_while_it_is_read_is_never_mixed(s3: S3Server) -> None:
    storage = open_storage(f"{s3.storage_url}/{uuid4().hex}")
    storage.put("a", BIG)
    reader = storage.read("a")
    next(reader)
    storage.put("a", reversed(BIG))

    with pytest.raises(StorageUnavailable, match="was replaced"):
        list(reader)


def test_a_failed_put_leaves_no_unfinished_upload_in_the_bucket(s3: S3Server) -> None:
    def broken() -> Iterator[bytes]:
        yield from BIG
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        open_storage(s3.storage_url).put("half", broken())

    assert "<Upload>" not in httpx.get(f"{s3.url}/{s3.bucket}?uploads").text


def test_a_missing_bucket_fails_its_check_and_puts(s3: S3Server) -> None:
    storage = open_storage("s3://no-such-bucket/prefix")

    with pytest.raises(StorageUnavailable, match="NoSuchBucket"):
        storage.check()
    with pytest.raises(StorageUnavailable, match="NoSuchBucket"):
        storage.put("a", [b"x"])


@pytest.mark.parametrize("accepts", [False, True], ids=["refuses connections", "never answers"])
def test_a_dead_s3_is_unavailable_soon(s3: S3Server, monkeypatch: pytest.MonkeyPatch, accepts: bool) -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        if accepts:
            hole.listen(16)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        storage = open_storage(s3.storage_url)

        assert _seconds_until_unavailable(storage.check) < 6
        assert _seconds_until_unavailable(lambda: storage.put("a", [b"x"])) < 20


def test_an_s3_that_stops_is_unavailable_and_serves_again_when_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        storage = open_storage(server.storage_url)
        storage.put("a", [b"x"])
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert _seconds_until_unavailable(storage.check) < 6
        finally:
            os.kill(server.pid, signal.SIGCONT)

        storage.check()
        assert b"".join(storage.read("a")) == b"x"


def _seconds_until_unavailable(call: Callable[[], object]) -> float:
    started = time.monotonic()
    with pytest.raises(StorageUnavailable):
        call()
    return time.monotonic() - started
