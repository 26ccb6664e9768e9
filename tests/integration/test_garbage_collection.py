"""What dead processes leave in storage is removed, and nothing that anybody may still need."""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from attempts import CANCELLED, POLICY, RELEASED
from deployment import Deployment, deployment
from servers import S3Server
from sqlalchemy import select, update

from app import auth
from app.datasets.tables import Dataset
from app.db import Database, now
from app.garbage_collection import LEFT_BEHIND_SECONDS, collect
from app.identifiers import new_id
from app.jobs import lifecycle
from app.jobs.lifecycle import Lease
from app.jobs.outcomes import Succeeded
from app.jobs.tables import Artifact, Job
from app.storage import Storage, open_storage


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return open_storage(f"file://{tmp_path / 'storage'}")
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return open_storage(f"{server.storage_url}/{uuid4().hex}")


@pytest.fixture
def claim(database: Database) -> Callable[[], Lease]:
    def claim() -> Lease:
        with database.write() as session:
            project = auth.ensure_project(session, "default").id
            queue = uuid4().hex[:20]
            job = Job(
                id=new_id("job"), project_id=project, task="t", user_metadata={}, priority=0, queue=queue, spec={},
                timeout_seconds=3600, body_sha256="0" * 64,
            )  # fmt: skip
            lifecycle.submit(session, job)
            claimed = lifecycle.claim(session, "w", (queue,), 600)
        assert claimed is not None
        return Lease(claimed.id, claimed.attempt, "w")

    return claim


def artifact(lease: Lease, kind: str, step: int) -> Artifact:
    name = "model" if kind == "model" else f"step-{step:08d}"
    return Artifact(
        id=new_id("art"), job_id=lease.job_id, attempt=lease.attempt, kind=kind, step=step, epoch=1.0, is_best=False,
        metrics={}, prefix=f"jobs/{lease.job_id}/a{lease.attempt}/{name}", files=[], manifest_sha256="0" * 64,
    )  # fmt: skip


def fill(storage: Storage, prefix: str) -> set[str]:
    paths = {f"{prefix}/manifest.json", f"{prefix}/deep/model.safetensors"}
    for path in paths:
        storage.put(path, [b"x"])
    return paths


def test_what_an_attempt_left_unrecorded_goes_when_it_is_over_and_not_before(
    database: Database, storage: Storage, claim: Callable[[], Lease]
) -> None:
    lease = claim()
    recorded, model = artifact(lease, "checkpoint", 10), artifact(lease, "model", 20)
    kept = fill(storage, recorded.prefix) | fill(storage, model.prefix)
    orphans = fill(storage, f"jobs/{lease.job_id}/a1/step-00000015")
    with database.write() as session:
        lifecycle.checkpoint(session, lease, recorded, None)
    assert collect(database, storage) == 0
    assert set(storage.list("jobs")) == kept | orphans

    with database.write() as session:
        lifecycle.conclude(session, lease, Succeeded(model, {}), POLICY)
    assert collect(database, storage) == 1
    assert set(storage.list("jobs")) == kept
    assert collect(database, storage) == 0


def test_an_earlier_attempt_is_tidied_up_while_a_later_one_runs(
    database: Database, storage: Storage, claim: Callable[[], Lease]
) -> None:
    lease = claim()
    fill(storage, f"jobs/{lease.job_id}/a1/step-00000010")
    with database.write() as session:
        lifecycle.conclude(session, lease, RELEASED, POLICY)
    with database.write() as session:
        queue = session.scalar(select(Job.queue).where(Job.id == lease.job_id)) or ""
        again = lifecycle.claim(session, "w2", (queue,), 600)
    assert again is not None
    assert again.attempt == 2
    uploading = fill(storage, f"jobs/{lease.job_id}/a2/step-00000012")
    assert collect(database, storage) == 1
    assert set(storage.list("jobs")) == uploading


def test_what_the_database_does_not_know_is_not_touched(database: Database, storage: Storage) -> None:
    foreign = fill(storage, f"jobs/{new_id('job')}/a1/model") | fill(storage, f"datasets/{new_id('ds')}")
    foreign |= fill(storage, "jobs") | fill(storage, "somebody/elses")
    assert collect(database, storage) == 0
    assert set(storage.list("")) == foreign


def test_a_checkpoint_that_was_hidden_by_a_worker_that_died_goes_after_a_day(
    database: Database, storage: Storage, claim: Callable[[], Lease]
) -> None:
    lease = claim()
    hidden = artifact(lease, "checkpoint", 10)
    files = fill(storage, hidden.prefix)
    with database.write() as session:
        lifecycle.checkpoint(session, lease, hidden, None)
        session.execute(update(Artifact).values(deleted_at=now()))
    with database.write() as session:
        lifecycle.conclude(session, lease, CANCELLED, POLICY)
    assert collect(database, storage) == 0
    assert set(storage.list("jobs")) == files
    with database.write() as session:
        session.execute(update(Artifact).values(deleted_at=now() - LEFT_BEHIND_SECONDS - 1))
    assert collect(database, storage) == 1
    assert not set(storage.list("jobs"))
    with database.read() as session:
        assert session.scalar(select(Artifact.id)) is None


def test_a_dataset_whose_api_died_goes_after_a_day(database: Database, storage: Storage) -> None:
    with database.write() as session:
        project = auth.ensure_project(session, "default").id
        ids = {"shown": new_id("ds"), "begun": new_id("ds"), "left": new_id("ds")}
        hidden_at = {"shown": None, "begun": now() - 60, "left": now() - LEFT_BEHIND_SECONDS - 1}
        for name, dataset_id in ids.items():
            session.add(
                Dataset(
                    id=dataset_id,
                    project_id=project,
                    filename="a.csv",
                    format="csv",
                    bytes=1,
                    sha256="0" * 64,
                    rows=1,
                    columns=[],
                    source_path=f"datasets/{dataset_id}/source.csv",
                    parquet_path=f"datasets/{dataset_id}/data.parquet",
                    deleted_at=hidden_at[name],
                )
            )
    files = {name: fill(storage, f"datasets/{dataset_id}") for name, dataset_id in ids.items()}
    assert collect(database, storage) == 1
    assert set(storage.list("datasets")) == files["shown"] | files["begun"]


def test_a_running_api_does_it_by_itself(tmp_path: Path) -> None:
    with deployment(tmp_path / "service", TUNESMITH_UPKEEP_SECONDS="0.5") as service:
        lease = _ended_job(service)
        storage = open_storage(f"file://{service.folder / 'storage'}")
        fill(storage, f"jobs/{lease.job_id}/a1/step-00000015")
        service.start_api()
        deadline = time.monotonic() + 30
        while list(storage.list("jobs")):
            assert time.monotonic() < deadline, service.logs()
            time.sleep(0.1)


def _ended_job(service: Deployment) -> Lease:
    database = Database(service.database_url)
    with database.write() as session:
        job = Job(
            id=new_id("job"), project_id=auth.ensure_project(session, "default").id, task="t", user_metadata={},
            priority=0, queue="cpu", spec={}, timeout_seconds=3600, body_sha256="0" * 64,
        )  # fmt: skip
        lifecycle.submit(session, job)
        lifecycle.cancel(session, job.id)
    database.close()
    return Lease(job.id, 1, "w")
