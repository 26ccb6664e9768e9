"""Cancel, pause and kill -9, whatever trains: through the service, with real processes."""

import os
import signal
import time
from typing import Any

from deployment import Answer, Deployment
from injection import unhurried
from tiny import spec

GRACE_SECONDS = 30.0


def body(pair: tuple[str, str], **training: Any) -> Answer:
    engine, method = pair
    return spec(
        training={"engine": engine, "method": {"type": method}, "max_steps": 250, **training},
        checkpoints={"strategy": "steps", "every": 20},
        data={"eval": None},
        evaluation={"at_start": False},
    )


def test_a_run_that_was_paused_killed_and_resumed_ends_where_an_undisturbed_one_does(
    local: Deployment, pair: tuple[str, str]
) -> None:
    worker = local.start_worker(**unhurried())
    undisturbed = local.client.post("/v1/jobs", body(pair))["id"]
    assert local.wait_for_end(undisturbed, 300)["status"] == "succeeded"
    job = local.client.post("/v1/jobs", body(pair))["id"]
    _reaches(local, job, 20)
    local.client.post(f"/v1/jobs/{job}/pause")
    paused = local.wait_for(job, lambda seen: seen["status"] == "paused", 60)
    assert local.client.get(f"/v1/jobs/{job}/checkpoints")["data"][0]["step"] >= paused["progress"]["step"] > 0
    local.client.post(f"/v1/jobs/{job}/resume")
    _reaches(local, job, paused["progress"]["step"] + 30)
    os.kill(worker.training_pid, signal.SIGKILL)
    done = local.wait_for_end(job, 300)
    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 3, 1), done
    assert local.model_sha(job) == local.model_sha(undisturbed)


def test_cancelling_takes_less_than_the_grace_and_keeps_a_checkpoint(local: Deployment, pair: tuple[str, str]) -> None:
    local.start_worker(**unhurried())
    job = local.client.post("/v1/jobs", body(pair, max_steps=1_000_000))["id"]
    _reaches(local, job, 20)
    local.client.post(f"/v1/jobs/{job}/cancel")
    asked = time.monotonic()
    assert local.wait_for_end(job, 60)["status"] == "cancelled"
    assert time.monotonic() - asked < GRACE_SECONDS
    assert local.client.get(f"/v1/jobs/{job}/checkpoints")["data"]


def _reaches(service: Deployment, job: str, step: int) -> None:
    service.wait_for(job, lambda seen: bool(seen["progress"]) and seen["progress"]["step"] >= step, 120)
