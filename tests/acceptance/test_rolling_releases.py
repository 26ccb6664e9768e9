"""Two releases run at once, as they do while a fleet is updated: the installed one, and one that adds fields."""

import os
import shutil
from pathlib import Path

import pytest
from deployment import Deployment, Process
from injection import INJECTED, unhurried
from refusals import refusal
from sqlalchemy import update
from tiny import spec

from app.db import Database
from app.jobs.tables import Job

ROOT = Path(__file__).parents[2]
ADDED = {
    "app/specs/training.py": (
        "    epochs: float = Field(",
        '    loss_scale: float = Field(default=1.0, gt=0, le=9, description="A field of a later release.")\n',
    ),
    "app/specs/resolved.py": ("    labels: list[str] = Field(", "    world_size: int = 1\n"),
    "worker/training/loop/state.py": ("    ended_early: bool = False", "    largest_loss: float = 0.0\n"),
}
"""File to the line before which the later release adds another, and that one."""


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process of a later release."""
    release = tmp_path_factory.mktemp("later")
    for package in ("app", "worker", "migrations"):
        shutil.copytree(ROOT / package, release / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, line) in ADDED.items():
        text = (release / name).read_text()
        assert text.count(before) == 1, name
        (release / name).write_text(text.replace(before, line + before))
    return {"PYTHONPATH": os.pathsep.join((str(release), str(INJECTED))), "TUNESMITH_TEST_COLD": "1"}


@pytest.mark.faults
def test_an_installed_worker_runs_jobs_of_a_later_api_but_those_that_use_what_it_does_not_know(
    local: Deployment, later: dict[str, str]
) -> None:
    api = local.start_api(**later)
    worker = local.start_worker()
    asking = local.client.post("/v1/jobs", spec(training={"max_steps": 2, "loss_scale": 2.0}))
    plain = local.client.post("/v1/jobs", spec(training={"max_steps": 2}))
    assert plain["spec"]["training"]["loss_scale"] == 1.0
    done = local.wait_for_end(plain["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 1), done
    waiting = local.client.get(f"/v1/jobs/{asking['id']}")
    assert (waiting["status"], waiting["attempt"], waiting["failures"]) == ("queued", 0, 0)
    assert waiting["waiting_for"] == (
        "no live worker knows training.loss_scale, which this job uses; start a worker of a newer version"
    )

    worker.stop()
    local.start_worker(**later)
    done = local.wait_for_end(asking["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 1), done

    api.stop()
    local.start_api()
    error = refusal(local.http.post(f"/v1/jobs/{asking['id']}/retry"), 409, "spec_unsupported")
    assert error["param"] == "training.loss_scale"
    assert "post a new job" in error["message"]
    again = local.client.post(f"/v1/jobs/{plain['id']}/retry", {})
    assert local.wait_for_end(again["id"])["status"] == "succeeded"


@pytest.mark.faults
def test_a_job_goes_from_an_installed_worker_to_a_later_one_and_back(local: Deployment, later: dict[str, str]) -> None:
    local.start_api()
    body = spec(training={"max_steps": 120}, checkpoints={"strategy": "none"}, data={"eval": None})
    worker = local.start_worker(**unhurried())
    undisturbed = local.client.post("/v1/jobs", body)
    assert local.wait_for_end(undisturbed["id"])["status"] == "succeeded"
    job_id = local.client.post("/v1/jobs", body)["id"]
    for release in (later, {}):
        pause(local, job_id, worker)
        worker = local.start_worker(**{**unhurried(), **release})
        local.client.post(f"/v1/jobs/{job_id}/resume")
    done = local.wait_for_end(job_id)
    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 3, 0), done
    assert local.model_sha(job_id) == local.model_sha(undisturbed["id"])


def test_a_stored_spec_that_the_worker_refuses_ends_the_job_at_once_and_names_the_field(local: Deployment) -> None:
    local.start_api()
    job_id = local.client.post("/v1/jobs", spec())["id"]
    database = Database(local.database_url)
    with database.write() as session:
        session.execute(update(Job).values(spec=spec(training={"learning_rate": 7.0})))
    database.close()
    local.start_worker()
    done = local.wait_for_end(job_id)
    assert (done["status"], done["attempt"], done["error"]["code"]) == ("failed", 1, "spec_unsupported"), done
    assert "'training.learning_rate'" in done["error"]["message"]
    error = refusal(local.http.post(f"/v1/jobs/{job_id}/retry"), 409, "spec_unsupported")
    assert error["param"] == "training.learning_rate"
    assert "post a new job" in error["message"]


def pause(service: Deployment, job_id: str, worker: Process) -> None:
    """Pause a running job some steps later, and stop its worker."""
    before = service.client.get(f"/v1/jobs/{job_id}")
    start = before["progress"]["step"] if before["progress"] else 0
    service.wait_for(
        job_id, lambda job: job["phase"] == "training" and bool(job["progress"]) and job["progress"]["step"] > start + 3
    )
    service.client.post(f"/v1/jobs/{job_id}/pause")
    service.wait_for(job_id, lambda job: job["status"] == "paused", 60)
    worker.stop()
