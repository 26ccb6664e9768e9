"""Nothing fills up: jobs, checkpoints and datasets are deleted on request or by age, and nothing that is needed or pinned goes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment
from hand_worker import checkpoint, claim, publish_model
from refusals import refusal
from sqlalchemy import func, select, update
from tiny import spec

from app.db import Database, now
from app.garbage_collection import collect
from app.jobs.tables import Artifact, Event, Job

DAY = 86400


def stored(service: Deployment, prefix: str = "") -> list[str]:
    return sorted(service.open_storage().list(prefix or "jobs"))


def rows_of(service: Deployment, job_id: str) -> dict[str, int]:
    database = Database(service.database_url)
    with database.read() as session:
        counts = {
            table.__tablename__: session.scalar(select(func.count()).where(table.job_id == job_id)) or 0
            for table in (Event, Artifact)
        }
    database.close()
    return counts


def age(service: Deployment, days: float) -> None:
    """Let everything have happened earlier."""
    database = Database(service.database_url)
    with database.write() as session:
        session.execute(update(Job).values(finished_at=now() - days * DAY, created_at=now() - days * DAY))
    database.close()


def published(service: Deployment, **parts: Any) -> str:
    return publish_model(service, {"model.safetensors": 1024**2}, **parts)


def test_a_deleted_job_is_gone_but_for_its_idempotency_key_and_its_usage(service: Deployment) -> None:
    service.start_api()
    body = spec(name="mine", metadata={"team": "a"})
    kept = published(service)
    key = {"idempotency-key": "one"}
    job = service.http.post("/v1/jobs", json=body, headers=key).json()["id"]
    refusal(service.http.delete(f"/v1/jobs/{job}"), 409, "job_not_ended")
    service.http.post(f"/v1/jobs/{job}/cancel")

    assert service.http.delete(f"/v1/jobs/{job}").json() == {"id": job, "object": "job", "deleted": True}

    for path in ("", "/events", "/metrics", "/logs", "/checkpoints", "/artifacts", "/archive"):
        refusal(service.http.get(f"/v1/jobs/{job}{path}"), 404, "job_not_found")
    refusal(service.http.delete(f"/v1/jobs/{job}"), 404)
    refusal(service.http.post(f"/v1/jobs/{job}/retry", json={}), 404)
    refusal(service.http.post("/v1/jobs", json=body, headers=key), 409, "job_deleted")
    listed = service.http.get("/v1/jobs").json()["data"] + service.http.get("/v1/jobs?metadata[team]=a").json()["data"]
    assert {found["id"] for found in listed} == {kept}
    assert rows_of(service, job) == {"events": 0, "artifacts": 0}
    assert service.http.get("/v1/usage").json()["total"]["jobs"] == 2
    assert service.http.delete(f"/v1/jobs/{kept}").status_code == 200
    assert stored(service) == []


def test_what_another_job_starts_from_stays(service: Deployment) -> None:
    service.start_api()
    base = published(service)
    child = service.client.post("/v1/jobs", spec(model=f"job:{base}"))["id"]
    assert child in refusal(service.http.delete(f"/v1/jobs/{base}"), 409, "job_in_use")["message"]
    assert service.http.get(f"/v1/jobs/{base}/artifacts").status_code == 200
    service.http.post(f"/v1/jobs/{child}/cancel")
    assert service.http.delete(f"/v1/jobs/{base}").status_code == 200


def with_checkpoints(service: Deployment, *steps: int) -> str:
    job: str = service.client.post("/v1/jobs", spec())["id"]
    database, lease = claim(service, job)
    storage = service.open_storage()
    with database.write() as session:
        for step in steps:
            row = checkpoint(lease, step)
            storage.put(f"{row.prefix}/a", iter([b"x" * 100]))
            row.files = [{"path": "a", "size": 100, "sha256": "0" * 64}]
            session.add(row)
        session.execute(update(Job).where(Job.id == job).values(status="failed", owner=None, finished_at=now()))
    database.close()
    return job


def test_one_checkpoint_is_deleted_or_pinned(service: Deployment) -> None:
    service.start_api()
    job = with_checkpoints(service, 1, 2, 3)
    http = service.http
    assert http.delete(f"/v1/jobs/{job}/checkpoints/2").status_code == 200
    refusal(http.delete(f"/v1/jobs/{job}/checkpoints/2"), 404, "checkpoint_not_found")
    assert http.post(f"/v1/jobs/{job}/checkpoints/1/pin").json()["pinned"] is True
    listed = {found["step"]: found["pinned"] for found in http.get(f"/v1/jobs/{job}/checkpoints").json()["data"]}
    assert listed == {3: False, 1: True}
    assert http.post(f"/v1/jobs/{job}/pin").json()["pinned"] is True
    assert http.delete(f"/v1/jobs/{job}/pin").json()["pinned"] is False
    child = http.post(f"/v1/jobs/{job}/retry", json={"from_checkpoint": 3})
    assert child.status_code == 201, child.text
    refusal(http.delete(f"/v1/jobs/{job}/checkpoints/3"), 409, "checkpoint_in_use")
    assert len(stored(service)) == 2


def test_retention_removes_what_is_old_and_says_so_before(service: Deployment) -> None:
    service.settings |= {"TUNESMITH_RETAIN_CHECKPOINT_DAYS": "10", "TUNESMITH_RETAIN_MODEL_DAYS": "30"}
    service.start_api()
    plain, pinned = with_checkpoints(service, 1, 2), with_checkpoints(service, 1)
    service.http.post(f"/v1/jobs/{plain}/checkpoints/2/pin")
    service.http.post(f"/v1/jobs/{pinned}/pin")
    base, old = published(service), published(service)
    service.client.post("/v1/jobs", spec(model=f"job:{base}"))
    assert "0 bytes would be freed" in service.tunesmith("retention", "--dry-run")

    age(service, 20)
    before = stored(service)
    printed = service.tunesmith("retention", "--dry-run")
    assert "100 bytes would be freed" in printed
    assert plain in printed
    assert stored(service) == before

    assert "100 bytes were freed" in service.tunesmith("retention")
    assert [found["step"] for found in service.http.get(f"/v1/jobs/{plain}/checkpoints").json()["data"]] == [2]
    assert [found["step"] for found in service.http.get(f"/v1/jobs/{pinned}/checkpoints").json()["data"]] == [1]

    age(service, 40)
    assert f"{1024**2:,} bytes were freed" in service.tunesmith("retention")
    assert service.http.get(f"/v1/jobs/{base}/artifacts").status_code == 200
    assert service.http.get(f"/v1/jobs/{old}/artifacts").status_code in (404, 409)
    assert service.http.get(f"/v1/jobs/{old}").json()["status"] == "succeeded"
    assert "0 bytes would be freed" in service.tunesmith("retention", "--dry-run")


def test_a_project_may_keep_less_than_the_settings_say(local: Deployment) -> None:
    local.start_api()
    local.http.post("/v1/datasets", files={"file": ("a.csv", b"text,label\na,b\n")})
    job = with_checkpoints(local, 1)
    local.tunesmith("projects", "limit", "default", "checkpoint_days=1")
    age(local, 2)
    assert "100 bytes were freed" in local.tunesmith("retention")
    assert local.http.get(f"/v1/jobs/{job}/checkpoints").json()["data"] == []
    assert len(local.http.get("/v1/datasets").json()["data"]) == 1


KILLED = """
import os, signal, sys
from app.db import Database
from app.jobs import deletion
from app.settings import Settings
from app.storage import open_storage

settings, at = Settings(), sys.argv[2]
storage = open_storage(settings.storage())

class Killing:
    def __getattr__(self, name):
        return getattr(storage, name)

    def delete_prefix(self, prefix):
        if at == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        storage.delete_prefix(prefix + "/a1/model" if at == "between" else prefix)
        os.kill(os.getpid(), signal.SIGKILL)

database = Database(settings.database())
with database.read() as session:
    from app.jobs.tables import Job
    project = session.get(Job, sys.argv[1]).project_id
deletion.delete_job(database, Killing(), project, sys.argv[1])
"""


@pytest.mark.parametrize("at", ["before", "between", "after"])
def test_a_deletion_that_is_killed_is_completed_later(service: Deployment, at: str) -> None:
    service.start_api()
    kept, job = published(service), published(service)
    script = [sys.executable, "-c", KILLED, job, at]
    root = Path(__file__).parents[3]
    done = subprocess.run(script, env={**service.environment(), "PYTHONPATH": str(root)}, check=False, cwd=os.sep)
    assert done.returncode == -signal.SIGKILL
    # Nobody sees it from its first moment on.
    refusal(service.http.get(f"/v1/jobs/{job}"), 404)

    database = Database(service.database_url)
    collect(database, service.open_storage())
    database.close()

    assert all(job not in path for path in stored(service))
    assert rows_of(service, job) == {"events": 0, "artifacts": 0}
    assert service.http.get(f"/v1/jobs/{kept}/artifacts/model.safetensors").status_code == 200


def test_after_a_week_of_jobs_the_bound_holds_and_nothing_pinned_is_lost(local: Deployment) -> None:
    """Two hundred jobs in seven days, of which two days are kept."""
    kept_days, jobs_per_day, size = 2, 29, 1024**2
    local.settings |= {
        "TUNESMITH_RETAIN_MODEL_DAYS": str(kept_days),
        "TUNESMITH_RETAIN_CHECKPOINT_DAYS": str(kept_days),
    }
    local.start_api()
    pinned: list[str] = []
    jobs: list[str] = []
    for _ in range(7):
        today = [published(local) for _ in range(jobs_per_day)]
        jobs += today
        pinned.append(today[0])
        local.http.post(f"/v1/jobs/{today[0]}/pin").raise_for_status()
        _pass_a_day(local)
        local.tunesmith("retention")
        held = sum(path.stat().st_size for path in (local.folder / "storage").rglob("*") if path.is_file())
        assert held <= ((kept_days + 1) * jobs_per_day + len(pinned)) * size

    assert len(jobs) == 203
    published_still = [
        job for job in jobs if local.http.get(f"/v1/jobs/{job}/artifacts/model.safetensors").status_code == 200
    ]
    assert set(pinned) <= set(published_still)
    assert set(published_still) - set(pinned) <= set(jobs[-(kept_days + 1) * jobs_per_day :])
    assert len(local.client.get("/v1/jobs", limit=100)["data"]) == 100


def _pass_a_day(service: Deployment) -> None:
    database = Database(service.database_url)
    with database.write() as session:
        session.execute(update(Job).values(finished_at=Job.finished_at - DAY, created_at=Job.created_at - DAY))
    database.close()
