"""Jobs from POST to download, through real processes, in both shapes of the service."""

import json
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest
from deployment import Deployment
from injection import unhurried
from refusals import refusal
from tiny import sentences, spec
from transformers import pipeline


def write_csv(path: Path, count: int) -> Path:
    lines = ["text,label", *(f"{row['text']},{row['label']}" for row in sentences(count))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.numeric
def test_the_main_job_from_upload_to_a_model_that_transformers_loads(service: Deployment, tmp_path: Path) -> None:
    service.start_api()
    client = service.client
    train = client.upload(write_csv(tmp_path / "train.csv", 48))
    evaluation = client.upload(write_csv(tmp_path / "eval.csv", 12))
    assert (train["rows"], train["type"]) == (48, "csv")
    body = spec(data={"train": {"dataset": train["id"]}, "eval": {"dataset": evaluation["id"]}})
    job = client.post("/v1/jobs", body)
    assert (job["status"], job["queue_position"], job["attempt"]) == ("queued", 0, 0)

    # Only now: a worker that is woken may have the job before its answer is read.
    service.start_worker()
    done = service.wait_for_end(job["id"])

    assert done["status"] == "succeeded", done
    assert done["metrics"]["eval_accuracy"] == 1.0
    assert done["progress"]["step"] == done["progress"]["of"] == 18
    assert done["resolved"]["labels"] == ["bad", "good"]
    events = list(client.events(job["id"], 0))
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert [event["data"]["to"] for event in events if event["type"] == "status"] == ["queued", "running", "succeeded"]
    series = client.get(f"/v1/jobs/{job['id']}/metrics")["series"]
    assert [point["step"] for point in series["eval_accuracy"]] == [0, 6, 12, 18]
    assert [point["step"] for point in series["loss"]] == list(range(1, 19))
    assert series["loss"][-1]["value"] < series["loss"][0]["value"]
    checkpoints = client.get(f"/v1/jobs/{job['id']}/checkpoints")["data"]
    assert checkpoints[0]["step"] == 18

    service.tunesmith("download", job["id"], str(tmp_path / "model"))
    classify = pipeline("text-classification", model=str(tmp_path / "model"))
    assert [found["label"] for found in classify(["the film was awful", "the film was great"])] == ["bad", "good"]
    job_file = json.loads((tmp_path / "model" / "job.json").read_text())
    assert job_file["job_id"] == job["id"]

    with tarfile.open(fileobj=BytesIO(service.http.get(f"/v1/jobs/{job['id']}/archive").content)) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert names == {file["path"] for file in client.get(f"/v1/jobs/{job['id']}/artifacts")["data"]}


def test_a_job_can_start_from_the_model_of_an_earlier_one(service: Deployment) -> None:
    service.start_api()
    service.start_worker()
    first = service.client.post("/v1/jobs", spec())
    assert service.wait_for_end(first["id"])["status"] == "succeeded"
    second = service.client.post("/v1/jobs", spec(model=f"job:{first['id']}", training={"epochs": 1}))
    done = service.wait_for_end(second["id"])
    assert done["status"] == "succeeded", done
    start = service.client.get(f"/v1/jobs/{second['id']}/metrics")["series"]["eval_accuracy"][0]
    assert (start["step"], start["value"]) == (0, 1.0)


def test_two_slots_run_two_jobs_at_once(local: Deployment) -> None:
    local.start_api()
    local.start_worker("--slots", "2", **unhurried())
    jobs = [local.client.post("/v1/jobs", spec(training={"max_steps": 3000}))["id"] for _ in range(2)]
    for job_id in jobs:
        local.wait_for(job_id, lambda job: bool(job["progress"]))
    assert sorted(local.client.get("/v1/workers")["data"][0]["jobs"]) == sorted(jobs)
    for job_id in jobs:
        local.client.post(f"/v1/jobs/{job_id}/cancel")
        assert local.wait_for_end(job_id)["status"] == "cancelled"


def test_cancelling_a_running_job_keeps_a_checkpoint_that_loads(service: Deployment, tmp_path: Path) -> None:
    service.start_api()
    service.start_worker(**unhurried())
    job = service.client.post("/v1/jobs", spec(training={"max_steps": 5000}, checkpoints={"strategy": "none"}))
    service.wait_for(job["id"], lambda seen: bool(seen["progress"]) and seen["progress"]["step"] > 5)
    asked = service.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert (asked.status_code, asked.json()["cancel_requested"]) == (200, True)
    assert service.wait_for_end(job["id"], 60)["status"] == "cancelled"

    checkpoint = service.client.get(f"/v1/jobs/{job['id']}/checkpoints")["data"][0]
    service.tunesmith("download", job["id"], str(tmp_path / "kept"), "--checkpoint", str(checkpoint["step"]))
    assert pipeline("text-classification", model=str(tmp_path / "kept"))("the film was good")

    again = service.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
    assert service.http.get(f"/v1/jobs/{job['id']}/artifacts").status_code == 404


def test_a_job_fails_at_once_with_code_hint_and_log_when_its_model_is_nowhere(local: Deployment) -> None:
    (local.folder / "models" / "empty").mkdir()
    local.start_api()
    local.start_worker()
    empty = local.client.post("/v1/jobs", spec(model="local:empty"))
    hub = local.client.post("/v1/jobs", spec(model="somebody/something"))
    for job_id in (empty["id"], hub["id"]):
        done = local.wait_for_end(job_id)
        assert (done["status"], done["attempt"], done["error"]["code"]) == ("failed", 1, "model_not_found"), done
        assert done["error"]["hint"]
        assert done["error"]["log_tail"] is not None


def test_a_job_whose_hub_is_out_of_reach_says_that_it_is_retried(local: Deployment) -> None:
    local.start_api()
    nowhere = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1", "no_proxy": "*"}
    local.start_worker(**nowhere, TUNESMITH_BACKOFF_SECONDS="60", HF_HOME=str(local.folder / "hub"))
    job_id = local.client.post("/v1/jobs", spec(model="somebody/something"))["id"]
    waiting = local.wait_for(job_id, lambda job: job["failures"] == 1)
    assert (waiting["status"], waiting["error"]["code"]) == ("queued", "hub_unreachable"), waiting
    assert waiting["waiting_for"].startswith("retrying after hub_unreachable: the next attempt begins in ")


def test_a_local_model_that_no_worker_has_is_refused_with_the_nearest_name(
    local: Deployment, tiny_model: Path, tmp_path: Path
) -> None:
    local.start_api(TUNESMITH_MODELS_DIR=str(tmp_path / "none"))
    # Nobody knows yet which models there are.
    early = local.client.post("/v1/jobs", spec(model="local:later", training={"max_steps": 1}))
    local.start_worker()
    for path in ("/v1/jobs", "/v1/jobs/validate"):
        error = refusal(local.http.post(path, json=spec(model="local:tinny")), 422, "model_not_found")
        assert error["param"] == "model.id"
        assert error["message"] == "no worker has the model 'local:tinny'; did you mean 'local:tiny'?"
    assert local.http.post("/v1/jobs/validate", json=spec(model="local:tiny")).status_code == 200
    # The service looks for workers twice a second.
    waiting = local.wait_for(early["id"], lambda job: job["waiting_for"] != "no worker is alive")
    assert waiting["waiting_for"] == "no live worker has the model local:later in its models folder"
    (local.folder / "models" / "later").symlink_to(tiny_model)
    done = local.wait_for_end(early["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 1), done
    deadline = time.monotonic() + 30
    while local.http.post("/v1/jobs/validate", json=spec(model="local:later")).status_code != 200:
        assert time.monotonic() < deadline, "the worker did not announce its new model"
        time.sleep(0.1)


def test_where_no_worker_said_what_it_has_the_folder_of_the_api_counts(local: Deployment) -> None:
    local.start_api()
    error = refusal(local.http.post("/v1/jobs", json=spec(model="local:tinny")), 422, "model_not_found")
    assert "did you mean 'local:tiny'?" in error["message"]


def test_a_bad_row_that_only_the_worker_sees_fails_the_job_with_its_place(local: Deployment, tmp_path: Path) -> None:
    local.settings["TUNESMITH_ROW_CHECK_LIMIT"] = "0"
    local.start_api()
    local.start_worker()
    path = write_csv(tmp_path / "train.csv", 20)
    path.write_text(path.read_text() + '"  ",good\n')
    dataset = local.client.upload(path)
    job = local.client.post("/v1/jobs", spec(data={"train": {"dataset": dataset["id"]}}))
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["error"]["code"]) == ("failed", "bad_rows"), done
    assert "line 22" in json.dumps(done["error"])
    assert "'text'" in json.dumps(done["error"])


def test_a_job_that_runs_past_its_timeout_fails_and_keeps_its_checkpoint(local: Deployment) -> None:
    local.start_api()
    local.start_worker(**unhurried())
    job = local.client.post("/v1/jobs", spec(training={"max_steps": 100_000}, resources={"timeout": "6s"}))
    done = local.wait_for_end(job["id"], 60)
    assert (done["status"], done["error"]["code"]) == ("failed", "timeout"), done
    assert local.client.get(f"/v1/jobs/{job['id']}/checkpoints")["data"]


def model_sha(service: Deployment, job_id: str) -> str:
    files = service.client.get(f"/v1/jobs/{job_id}/artifacts")["data"]
    return next(file["sha256"] for file in files if file["path"] == "model.safetensors")


def test_a_paused_job_frees_its_slot_and_resumes_to_the_weights_of_an_undisturbed_run(service: Deployment) -> None:
    service.start_api()
    service.start_worker(**unhurried())
    body = spec(training={"max_steps": 150}, checkpoints={"strategy": "none"}, data={"eval": None})
    undisturbed = service.client.post("/v1/jobs", body)
    assert service.wait_for_end(undisturbed["id"])["status"] == "succeeded"
    job = service.client.post("/v1/jobs", body)
    service.wait_for(job["id"], lambda seen: bool(seen["progress"]) and seen["progress"]["step"] > 5)
    service.client.post(f"/v1/jobs/{job['id']}/pause")
    paused = service.wait_for(job["id"], lambda seen: seen["status"] == "paused", 30)
    assert (paused["failures"], paused["workers_lost"]) == (0, 0)
    assert service.client.get("/v1/workers")["data"][0]["jobs"] == []
    service.client.post(f"/v1/jobs/{job['id']}/resume")
    done = service.wait_for_end(job["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 2), done
    assert model_sha(service, job["id"]) == model_sha(service, undisturbed["id"])


def test_a_retry_goes_on_from_a_checkpoint_of_the_job_it_retries(local: Deployment) -> None:
    local.start_api()
    local.start_worker()
    body = spec(
        training={"max_steps": 60}, checkpoints={"strategy": "steps", "every": 20, "keep": 5}, data={"eval": None}
    )
    first = local.client.post("/v1/jobs", body)
    assert local.wait_for_end(first["id"])["status"] == "succeeded"
    child = local.client.post(f"/v1/jobs/{first['id']}/retry", {"from_checkpoint": 40})
    done = local.wait_for_end(child["id"])
    assert (done["status"], done["parent_id"], done["attempt"]) == ("succeeded", first["id"], 1), done
    steps = [point["step"] for point in local.client.get(f"/v1/jobs/{child['id']}/metrics")["series"]["loss"]]
    assert min(steps) == 41
    assert model_sha(local, child["id"]) == model_sha(local, first["id"])
