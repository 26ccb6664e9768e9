"""What dies, and what still comes out. The full table of faults grows from here."""

import os
import signal
import time
from pathlib import Path

from deployment import Deployment, is_alive, wait_until
from servers import free_port, redis_server
from tiny import spec

LONG = {"max_steps": 600}
STEADY = {"strategy": "steps", "every": 40}


def model_sha(service: Deployment, job_id: str) -> str:
    files = service.client.get(f"/v1/jobs/{job_id}/artifacts")["data"]
    return next(file["sha256"] for file in files if file["path"] == "model.safetensors")


def test_kill_9_of_the_training_process_ends_in_a_second_attempt_that_resumes_to_the_same_weights(
    service: Deployment,
) -> None:
    service.start_api()
    worker = service.start_worker()
    body = spec(training=LONG, checkpoints=STEADY)
    undisturbed = service.client.post("/v1/jobs", body)
    assert service.wait_for_end(undisturbed["id"])["status"] == "succeeded"

    job = service.client.post("/v1/jobs", body)
    checkpoints = f"/v1/jobs/{job['id']}/checkpoints"
    service.wait_for(job["id"], lambda _: bool(service.client.get(checkpoints)["data"]))
    os.kill(worker.training_pid, signal.SIGKILL)
    done = service.wait_for_end(job["id"])

    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 2, 1), done
    events = list(service.client.events(job["id"], 0))
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    reasons = [event["data"]["reason"] for event in events if event["type"] == "status"]
    assert reasons == ["submitted", "claimed", "attempt_failed", "claimed", "finished"]
    second = [event["data"]["step"] for event in events if event["type"] == "metric" and event["attempt"] == 2]
    assert min(second) > 1, "the second attempt began at the first step"
    assert model_sha(service, job["id"]) == model_sha(service, undisturbed["id"])


def test_a_stopped_training_process_is_killed_by_the_watchdog_and_tried_again(local: Deployment) -> None:
    local.settings["TUNESMITH_HUNG_SECONDS"] = "4"
    local.start_api()
    worker = local.start_worker()
    job = local.client.post("/v1/jobs", spec(training={"max_steps": 1500}, checkpoints=STEADY))
    checkpoints = f"/v1/jobs/{job['id']}/checkpoints"
    local.wait_for(job["id"], lambda _: bool(local.client.get(checkpoints)["data"]))
    hung = worker.training_pid
    os.kill(hung, signal.SIGSTOP)
    retried = local.wait_for(job["id"], lambda seen: seen["attempt"] == 2, 30)
    assert retried["error"]["code"] == "training_hung"
    assert not is_alive(hung)
    assert local.wait_for_end(job["id"])["status"] == "succeeded"


def test_a_worker_that_is_told_to_stop_while_it_starts_stops(fleet: Deployment) -> None:
    fleet.start_api()
    for delay in (0.0, 0.1):
        worker = fleet.start_worker()
        time.sleep(delay)
        assert worker.stop(signal.SIGTERM, patience=20) == 0


def test_kill_9_of_the_worker_takes_its_training_process_along_and_another_worker_goes_on(service: Deployment) -> None:
    service.start_api()
    worker = service.start_worker()
    job = service.client.post("/v1/jobs", spec(training={"max_steps": 1500}, checkpoints=STEADY))
    checkpoints = f"/v1/jobs/{job['id']}/checkpoints"
    service.wait_for(job["id"], lambda _: bool(service.client.get(checkpoints)["data"]))
    pid = worker.training_pid
    worker.stop(signal.SIGKILL)
    deadline = time.monotonic() + 2
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid), "the training process outlived its worker by 2 s"

    service.start_worker()
    done = service.wait_for_end(job["id"])
    assert (done["status"], done["attempt"], done["workers_lost"], done["failures"]) == ("succeeded", 2, 1, 0), done


def test_sigterm_of_the_worker_saves_a_checkpoint_and_gives_the_job_back_uncounted(service: Deployment) -> None:
    service.start_api()
    worker = service.start_worker()
    job = service.client.post("/v1/jobs", spec(training={"max_steps": 1500}, checkpoints={"strategy": "none"}))
    service.wait_for(job["id"], lambda seen: bool(seen["progress"]) and seen["progress"]["step"] > 20)
    assert worker.stop(signal.SIGTERM, patience=30) == 0
    given_back = service.client.get(f"/v1/jobs/{job['id']}")
    assert (given_back["status"], given_back["failures"], given_back["workers_lost"]) == ("queued", 0, 0)
    kept = service.client.get(f"/v1/jobs/{job['id']}/checkpoints")["data"]
    assert kept[0]["step"] > 20

    service.start_worker()
    done = service.wait_for_end(job["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 2), done


def test_without_its_broker_the_service_takes_jobs_and_workers_find_them(fleet: Deployment) -> None:
    with redis_server() as doomed:
        fleet.settings["TUNESMITH_BROKER_URL"] = doomed.url
        fleet.start_api()
        worker = fleet.start_worker()
        first = fleet.client.post("/v1/jobs", spec())
        assert fleet.wait_for_end(first["id"])["status"] == "succeeded"
    assert fleet.http.post("/v1/jobs", json=spec()).status_code == 201
    second = fleet.client.get("/v1/jobs", limit=1)["data"][0]
    assert fleet.wait_for_end(second["id"], 60)["status"] == "succeeded"
    assert worker.stop(signal.SIGTERM, patience=30) == 0


def test_a_worker_that_starts_without_its_broker_runs_jobs_and_stops_when_asked(fleet: Deployment) -> None:
    fleet.settings["TUNESMITH_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    fleet.start_api()
    worker = fleet.start_worker()
    job = fleet.client.post("/v1/jobs", spec())
    assert fleet.wait_for_end(job["id"], 60)["status"] == "succeeded"
    assert worker.stop(signal.SIGTERM, patience=30) == 0


def test_a_wake_up_starts_a_job_long_before_the_poll_would(fleet: Deployment) -> None:
    fleet.settings.update({"TUNESMITH_POLL_SECONDS": "50", "TUNESMITH_SWEEP_SECONDS": "50"})
    fleet.start_api()
    worker = fleet.start_worker()
    wait_until(lambda: "ready" in worker.log, worker)
    job = fleet.client.post("/v1/jobs", spec())
    assert fleet.wait_for(job["id"], lambda seen: seen["status"] != "queued", 20)


def test_one_machine_restarts_a_worker_that_was_killed(local: Deployment, tmp_path: Path) -> None:
    up = local.start_up()
    job = local.client.post("/v1/jobs", spec(training={"max_steps": 1500}, checkpoints=STEADY))
    checkpoints = f"/v1/jobs/{job['id']}/checkpoints"
    local.wait_for(job["id"], lambda _: bool(local.client.get(checkpoints)["data"]))
    os.kill(local.client.get("/v1/workers")["data"][0]["pid"], signal.SIGKILL)
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["workers_lost"]) == ("succeeded", 1), done
    assert up.stop(signal.SIGTERM, patience=40) == 0
