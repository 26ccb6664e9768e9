"""A worker with more slots than GPUs. The GPUs are listed by a program of the test; training runs on the CPU."""

import os
import re

import nvidia
from deployment import Deployment, Process
from injection import unhurried
from tiny import spec

_, H100, _ = (uuid for uuid, _, _ in nvidia.LISTED)
LONG = {"training": {"max_steps": 5000}}


def start_worker(service: Deployment, allowed: str) -> Process:
    path = f"{nvidia.install(service.folder / 'bin', *nvidia.LISTED)}{os.pathsep}{os.environ['PATH']}"
    return service.start_worker("--slots", "2", PATH=path, CUDA_VISIBLE_DEVICES=allowed, **unhurried())


def devices(worker: Process, job_id: str) -> list[str]:
    """What each attempt of a job trained on."""
    return re.findall(rf"job {job_id}: attempt \d+ trains in process \d+ on (.+)", worker.log)


def test_two_slots_never_share_a_gpu_and_the_other_runs_jobs_for_cpus(local: Deployment) -> None:
    local.start_api()
    worker = start_worker(local, "1")
    (listed,) = local.client.get("/v1/workers")["data"]
    assert listed["hardware"]["gpus"] == [{"uuid": H100, "name": "NVIDIA H100 80GB HBM3", "memory_mib": 81559}]

    first, second = (local.client.post("/v1/jobs", spec(**LONG))["id"] for _ in range(2))
    local.wait_for(first, lambda job: bool(job["progress"]))
    # The slot beside it is free: it runs a job that came later, and not the one that may use a GPU.
    for_cpu = local.client.post("/v1/jobs", spec(resources={"gpus": 0}, training={"max_steps": 5}))["id"]
    assert local.wait_for_end(for_cpu)["status"] == "succeeded"
    waiting = local.wait_for(second, lambda job: job["waiting_for"] != "a worker is about to take it")
    assert waiting["status"] == "queued"
    assert waiting["waiting_for"] == "all GPUs of the live workers with a free slot are busy (1 on 1 worker)"

    local.client.post(f"/v1/jobs/{first}/cancel")
    local.wait_for(second, lambda job: bool(job["progress"]))
    local.client.post(f"/v1/jobs/{second}/cancel")
    ended = [local.wait_for_end(job_id) for job_id in (first, second)]
    assert [job["status"] for job in ended] == ["cancelled", "cancelled"]
    assert ended[0]["finished_at"] <= ended[1]["started_at"]
    assert devices(worker, for_cpu) == ["CPU"]
    assert devices(worker, first) == devices(worker, second) == [f"GPU {H100}"]


def test_an_attempt_that_fails_returns_its_gpu(local: Deployment) -> None:
    local.start_api()
    worker = start_worker(local, H100)
    # There is no such GPU, so an attempt that needs one fails and is retried.
    failing = local.client.post("/v1/jobs", spec(resources={"gpus": 1}))["id"]
    local.wait_for(failing, lambda job: job["failures"] >= 2)
    assert set(devices(worker, failing)) == {f"GPU {H100}"}
    assert len(devices(worker, failing)) >= 2
