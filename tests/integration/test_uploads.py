"""Checkpoints on their way to storage: what waits while it is away, and what is left when it is back."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from outages import away
from sqlalchemy import select
from sqlalchemy.orm import Session
from tiny import spec

from app import auth
from app.db import Database
from app.identifiers import new_id
from app.jobs import lifecycle, queries
from app.jobs.lifecycle import Lease
from app.jobs.tables import Event, Job
from app.storage import Storage, StorageUnavailable, Stored, open_storage
from worker.artifacts import newest_checkpoint
from worker.relay import Relay
from worker.training.checkpoints.folders import MANIFEST, commit, folder_name, rotate
from worker.uploads import CheckpointUploads


class Gate:
    """A real store behind a gate: while it is shut, puts fail as they do when the store is away."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.open = threading.Event()
        self.sent: list[str] = []
        self.deletes_fail = 0

    def put_file(self, path: str, source: Path) -> Stored:
        if not self.open.is_set():
            raise StorageUnavailable("away")
        self.sent.append(path)
        return self._storage.put_file(path, source)

    def delete_prefix(self, prefix: str) -> None:
        if self.deletes_fail:
            self.deletes_fail -= 1
            raise StorageUnavailable("away")
        self._storage.delete_prefix(prefix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


@pytest.fixture
def lease(database: Database) -> Lease:
    with database.write() as session:
        project = auth.ensure_project(session, "default").id
        job = Job(
            id=new_id("job"), project_id=project, task="t", user_metadata={}, priority=0, queue="cpu", spec=spec(),
            timeout_seconds=3600, body_sha256="0" * 64,
        )  # fmt: skip
        lifecycle.submit(session, job)
        claimed = lifecycle.claim(session, "w", ("cpu",), 600)
    assert claimed is not None
    return Lease(claimed.id, claimed.attempt, "w")


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(open_storage(f"file://{tmp_path / 'storage'}"))
    yield gate
    gate.open.set()


def report(out_dir: Path, step: int, best_step: int | None) -> dict[str, Any]:
    staging = out_dir / f"staging-{step}"
    staging.mkdir(parents=True)
    (staging / "weights").write_text(f"weights of step {step}")
    commit(staging, out_dir / "checkpoints" / folder_name(step), {"step": step, "best_step": best_step})
    return {
        "step": step,
        "epoch": 1.0,
        "path": f"checkpoints/{folder_name(step)}",
        "metrics": {},
        "is_best": step == best_step,
    }


def kept(database: Database, lease: Lease) -> list[tuple[int, bool]]:
    with database.read() as session:
        return [(item.step, item.is_best) for item in queries.checkpoints(session, lease.job_id)]


def test_while_the_storage_is_away_the_newest_and_the_best_wait_and_then_arrive(
    database: Database, lease: Lease, storage: Gate, tmp_path: Path
) -> None:
    out_dir = tmp_path / "out"
    uploads = CheckpointUploads(database, storage, lease, out_dir, keep=2)
    for step in range(1, 8):
        uploads.add(report(out_dir, step, best_step=2 if step >= 2 else 1))
    assert len(list((out_dir / "outbox").iterdir())) <= 4
    storage.open.set()
    uploads.finish(60)
    assert kept(database, lease) == [(7, False), (6, False), (2, True)]
    assert list((out_dir / "outbox").iterdir()) == []
    steps = {path.split("/")[3] for path in storage.list(f"jobs/{lease.job_id}")}
    assert steps == {folder_name(step) for step in (2, 6, 7)}


class Training:
    """Reports checkpoints as a training process does, and keeps only the newest one of its own."""

    def __init__(self, out_dir: Path) -> None:
        self._out_dir, self.reports = out_dir, out_dir / "reports.jsonl"
        self.step = 0

    def save(self) -> None:
        self.step += 1
        record = report(self._out_dir, self.step, best_step=None)
        note = {"type": "note", "time": 1.0, "message": f"at step {self.step}"}
        with self.reports.open("a") as file:
            for line in (note, {"type": "checkpoint", "time": 1.0, **record}):
                file.write(json.dumps(line) + "\n")
        rotate(self._out_dir / "checkpoints", keep=1, best_step=None)


def relay_of(database: Database, lease: Lease, training: Training, uploads: CheckpointUploads) -> Relay:
    def take(record: dict[str, Any]) -> None:
        if record["type"] == "checkpoint":
            uploads.add(record)

    return Relay(database, lease, training.reports, training.reports.parent / "output.log", take)


def recorded(database: Database, lease: Lease) -> list[int]:
    """The steps of all checkpoint events, in order."""
    with database.read() as session:
        found = select(Event.data["step"].as_integer()).where(Event.job_id == lease.job_id, Event.type == "checkpoint")
        return list(session.scalars(found.order_by(Event.seq)))


def test_checkpoints_that_rotate_away_while_the_database_is_away_are_recorded_later(
    database: Database, lease: Lease, storage: Gate, tmp_path: Path
) -> None:
    storage.open.set()
    training = Training(tmp_path / "out")
    uploads = CheckpointUploads(database, storage, lease, tmp_path / "out", keep=2)
    relay = relay_of(database, lease, training, uploads)
    with away(database):
        for _ in range(3):
            training.save()
            assert not relay.forward()
    assert relay.forward()
    uploads.finish(60)
    assert recorded(database, lease)[-2:] == [2, 3]
    assert kept(database, lease) == [(3, False), (2, False)]
    assert newest_checkpoint(database, storage, lease.job_id, tmp_path / "resume") is not None


class CountedWrites:
    """A database that lets a test wait for the next write."""

    def __init__(self, database: Database) -> None:
        self._database, self.tries = database, threading.Semaphore(0)

    @contextmanager
    def write(self) -> Iterator[Session]:
        self.tries.release()
        with self._database.write() as session:
            yield session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def test_the_files_of_a_checkpoint_are_sent_once_however_long_the_database_is_away(
    database: Database, lease: Lease, storage: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.uploads.RETRY_SECONDS", 0.01)
    storage.open.set()
    counted = CountedWrites(database)
    uploads = CheckpointUploads(cast("Database", counted), storage, lease, tmp_path / "out", keep=2)
    with away(database):
        uploads.add(report(tmp_path / "out", 1, best_step=None))
        assert all(counted.tries.acquire(timeout=60) for _ in range(3))
    uploads.finish(60)
    assert recorded(database, lease) == [1]
    assert [Path(path).name for path in storage.sent] == ["weights", MANIFEST]


class SlowDatabase:
    """A database whose commits take so long that training saves another checkpoint meanwhile."""

    def __init__(self, database: Database, training: Training) -> None:
        self._database, self._training = database, training

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self._database.write() as session:
            yield session
        if self._training.step < 5:
            self._training.save()


def test_checkpoints_that_come_quicker_than_the_database_commits_are_uploaded(
    database: Database, lease: Lease, storage: Gate, tmp_path: Path
) -> None:
    storage.open.set()
    training = Training(tmp_path / "out")
    uploads = CheckpointUploads(database, storage, lease, tmp_path / "out", keep=2)
    relay = relay_of(cast("Database", SlowDatabase(database, training)), lease, training, uploads)
    training.save()
    assert relay.forward()
    uploads.finish(60)
    assert training.step == 5
    assert (recorded(database, lease)[0], recorded(database, lease)[-1]) == (1, 5)


class BadDisk(Gate):
    """A real store on a machine whose disk damages a file between two downloads."""

    def __init__(self, storage: Storage, damaged: Path) -> None:
        super().__init__(storage)
        self._damaged = damaged

    def read(self, path: str) -> Iterator[bytes]:
        if path.endswith(MANIFEST):
            self._damaged.write_bytes(b"x")
        yield from self._storage.read(path)


def test_a_damaged_copy_gives_up_no_stored_checkpoint_and_damaged_stored_bytes_do(
    database: Database, lease: Lease, storage: Gate, tmp_path: Path
) -> None:
    storage.open.set()
    uploads = CheckpointUploads(database, storage, lease, tmp_path / "out", keep=2)
    for step in (1, 2):
        uploads.add(report(tmp_path / "out", step, best_step=None))
    uploads.finish(60)
    target = tmp_path / "resume"
    bad_disk = BadDisk(storage, target / folder_name(2) / "weights")
    with pytest.raises(OSError, match="damaged"):
        newest_checkpoint(database, bad_disk, lease.job_id, target)
    assert kept(database, lease) == [(2, False), (1, False)]
    assert newest_checkpoint(database, storage, lease.job_id, target) == target / folder_name(2)
    for path in storage.list(f"jobs/{lease.job_id}"):
        if path.endswith(f"{folder_name(2)}/weights"):
            (tmp_path / "storage" / path).write_bytes(b"weights of step 7")
    assert newest_checkpoint(database, storage, lease.job_id, target) == target / folder_name(1)
    assert kept(database, lease) == [(1, False)]


def test_what_could_not_be_removed_is_removed_the_next_time(
    database: Database, lease: Lease, storage: Gate, tmp_path: Path
) -> None:
    out_dir = tmp_path / "out"
    storage.open.set()
    storage.deletes_fail = 1
    for step in (1, 2, 3):
        uploads = CheckpointUploads(database, storage, lease, out_dir, keep=1)
        uploads.add(report(out_dir, step, best_step=None))
        uploads.finish(60)
    assert kept(database, lease) == [(3, False)]
    assert {path.split("/")[3] for path in storage.list(f"jobs/{lease.job_id}")} == {folder_name(3)}


def test_a_checkpoint_that_is_recorded_twice_stands_once(
    database: Database, lease: Lease, storage: Gate, tmp_path: Path
) -> None:
    out_dir = tmp_path / "out"
    storage.open.set()
    record = report(out_dir, 5, best_step=5)
    for _ in range(2):
        uploads = CheckpointUploads(database, storage, lease, out_dir, keep=1)
        uploads.add(record)
        uploads.finish(60)
    assert kept(database, lease) == [(5, True)]
