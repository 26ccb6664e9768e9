"""The worker dies, or is stopped for so long that its job goes to another."""

import os
import signal
import time

import pytest
from deployment import Deployment, is_alive, wait_until
from injection import unhurried
from invariants import processes_in
from tiny import spec

LONG = spec(training={"max_steps": 250}, checkpoints={"strategy": "steps", "every": 25}, data={"eval": None})


@pytest.mark.faults
def test_kill_9_takes_its_training_process_along_and_another_worker_goes_on(service: Deployment) -> None:
    service.start_api()
    worker = service.start_worker(**unhurried())
    job = service.client.post("/v1/jobs", LONG)
    service.wait_for_checkpoint(job["id"])
    pid = worker.training_pid
    worker.stop(signal.SIGKILL)
    deadline = time.monotonic() + 2
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid), "the training process outlived its worker by 2 s"

    service.start_worker()
    done = service.wait_for_end(job["id"])
    assert (done["status"], done["attempt"], done["workers_lost"], done["failures"]) == ("succeeded", 2, 1, 0), done


@pytest.mark.faults
def test_one_machine_restarts_one_that_was_killed(local: Deployment) -> None:
    up = local.start_up(**unhurried())
    job = local.client.post("/v1/jobs", LONG)
    local.wait_for_checkpoint(job["id"])
    os.kill(local.client.get("/v1/workers")["data"][0]["pid"], signal.SIGKILL)
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["workers_lost"]) == ("succeeded", 1), done
    assert up.stop(signal.SIGTERM, patience=40) == 0


@pytest.mark.faults
def test_one_that_was_stopped_past_its_lease_writes_nothing_more_and_serves_on(fleet: Deployment) -> None:
    fleet.start_api()
    workers = [fleet.start_worker(**unhurried()) for _ in range(2)]
    job = fleet.client.post("/v1/jobs", LONG)
    fleet.wait_for_checkpoint(job["id"])
    # Its training process writes on, all of it too late.
    stopped, other = sorted(workers, key=lambda worker: job["id"] not in worker.log)
    stopped.popen.send_signal(signal.SIGSTOP)
    pid = stopped.training_pid
    second = fleet.wait_for(job["id"], lambda seen: seen["attempt"] == 2)
    assert second["workers_lost"] == 1
    stopped.popen.send_signal(signal.SIGCONT)
    wait_until(lambda: f"job {job['id']}: attempt 1 is no longer ours" in stopped.log, stopped)
    assert not is_alive(pid)

    done = fleet.wait_for_end(job["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 2), done
    events = list(fleet.client.events(job["id"], 0))
    attempts = [event["attempt"] for event in events]
    assert attempts == sorted(attempts), "the first attempt wrote after the second began"

    assert other.stop() == 0
    later = fleet.client.post("/v1/jobs", spec())
    assert fleet.wait_for_end(later["id"])["status"] == "succeeded"
    assert f"job {later['id']}: attempt 1 begins" in stopped.log


@pytest.mark.faults
def test_a_machine_that_slept_past_all_leases_goes_on_where_it_was(local: Deployment) -> None:
    local.start_api()
    worker = local.start_worker(**unhurried())
    job = local.client.post("/v1/jobs", LONG)
    local.wait_for_checkpoint(job["id"])
    pid = worker.training_pid
    processes = processes_in(local.folder)
    assert {pid, worker.popen.pid} < processes.keys()
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    time.sleep(float(local.settings["TUNESMITH_LEASE_SECONDS"]) + 2)
    # The API first: its sweeper finds the lease expired before the worker can renew it.
    for process in processes:
        os.kill(process, signal.SIGCONT)
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["attempt"], done["workers_lost"]) == ("succeeded", 1, 0), done
    assert worker.training_pids == [pid]
