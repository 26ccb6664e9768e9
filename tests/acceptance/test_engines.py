"""One job through each engine, by real processes; and what TensorFlow's own process does when something ends."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment, Process, is_alive
from keras_environment import tensorflow_python
from tiny import sentences, spec
from transformers import pipeline

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STEADY = {"strategy": "steps", "every": 40}


@pytest.fixture(autouse=True)
def _with_the_environment() -> None:
    tensorflow_python()


def keras_pid(worker: Process) -> int:
    """The TensorFlow process of the training process that a worker started."""
    training = worker.training_pid
    children = Path(f"/proc/{training}/task/{training}/children").read_text().split()
    (pid,) = [int(pid) for pid in children if b"training/keras" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def keras_spec(**parts: Any) -> dict[str, Any]:
    return spec(**{**parts, "training": {"engine": "tensorflow", **parts.get("training", {})}})


def test_the_same_job_learns_the_same_on_all_three_engines(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    local.start_worker()
    assert local.client.get("/v1/workers")["data"][0]["engines"] == ["trainer", "pytorch", "tensorflow"]
    metrics, rows = {}, sentences(4)
    for engine in ("trainer", "pytorch", "tensorflow"):
        body = spec(model={"id": "local:tiny", "config": WITHOUT_DROPOUT}, training={"engine": engine})
        job = local.client.post("/v1/jobs", body)
        done = local.wait_for_end(job["id"])
        assert done["status"] == "succeeded", done
        assert done["progress"]["step"] == 18
        metrics[engine] = done["metrics"]
        local.tunesmith("download", job["id"], str(tmp_path / engine))
        classify = pipeline("text-classification", model=str(tmp_path / engine))
        assert [found["label"] for found in classify([row["text"] for row in rows])] == [row["label"] for row in rows]
    for engine in ("pytorch", "tensorflow"):
        assert metrics[engine] == pytest.approx(metrics["trainer"], rel=1e-3), engine


def test_a_worker_without_tensorflow_leaves_the_job_waiting_and_the_job_says_why(local: Deployment) -> None:
    local.settings["TUNESMITH_ENGINE_SECONDS"] = "1"
    local.start_api()
    able = local.settings["TUNESMITH_TENSORFLOW_PYTHON"]
    local.settings["TUNESMITH_TENSORFLOW_PYTHON"] = str(local.folder / "nothing")
    without = local.start_worker()
    assert "has no TensorFlow" in without.log
    job = local.client.post("/v1/jobs", keras_spec(training={"max_steps": 2}))
    events = f"/v1/jobs/{job['id']}/events"
    local.wait_for(job["id"], lambda _: bool(local.client.get(events, type="note")["data"]), 60)
    waiting = local.client.get(f"/v1/jobs/{job['id']}")
    assert (waiting["status"], waiting["attempt"]) == ("queued", 0)
    assert waiting["waiting_for"] == "no live worker offers the engine tensorflow"
    (note,) = local.client.get(events, type="note")["data"]
    assert "none offers the engine tensorflow" in note["data"]["message"]
    plain = local.client.post("/v1/jobs", spec())
    assert local.wait_for_end(plain["id"])["status"] == "succeeded"

    local.settings["TUNESMITH_TENSORFLOW_PYTHON"] = able
    local.start_worker()
    done = local.wait_for_end(job["id"])
    assert done["status"] == "succeeded", done


@pytest.mark.faults
def test_kill_9_of_the_training_process_takes_tensorflow_along_and_the_next_attempt_resumes(local: Deployment) -> None:
    local.start_api()
    worker = local.start_worker()
    job = local.client.post("/v1/jobs", keras_spec(training={"max_steps": 600}, checkpoints=STEADY))
    checkpoints = f"/v1/jobs/{job['id']}/checkpoints"
    local.wait_for(job["id"], lambda _: bool(local.client.get(checkpoints)["data"]))
    pid = keras_pid(worker)
    os.kill(worker.training_pid, signal.SIGKILL)
    assert gone_within(pid, 2), "TensorFlow outlived the training process by 2 s"
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 2, 1), done
    series = local.client.get(f"/v1/jobs/{job['id']}/metrics")["series"]["loss"]
    second = [point["step"] for point in series if point["attempt"] == 2]
    assert min(second) > 1, "the second attempt began at the first step"
    assert max(second) == 600


def test_a_cancelled_job_ends_within_the_grace_with_a_checkpoint_and_no_process_left(
    local: Deployment, tmp_path: Path
) -> None:
    local.start_api()
    worker = local.start_worker()
    job = local.client.post("/v1/jobs", keras_spec(training={"max_steps": 5000}, checkpoints={"strategy": "none"}))
    local.wait_for(job["id"], lambda seen: bool(seen["progress"]) and seen["progress"]["step"] > 5)
    pid = keras_pid(worker)
    local.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert local.wait_for_end(job["id"], 60)["status"] == "cancelled"
    assert "SIGKILL" not in worker.log, "it did not stop within its grace"
    assert gone_within(pid, 2)
    checkpoint = local.client.get(f"/v1/jobs/{job['id']}/checkpoints")["data"][0]
    local.tunesmith("download", job["id"], str(tmp_path / "kept"), "--checkpoint", str(checkpoint["step"]))
    assert pipeline("text-classification", model=str(tmp_path / "kept"))("the film was good")


def test_what_an_engine_cannot_do_is_refused_at_submit_with_what_can(local: Deployment) -> None:
    local.start_api()
    limits = local.client.get("/v1/tasks")["data"][0]["engine_limits"]
    assert limits["tensorflow"]["training.optimizer"] == ["adamw", "sgd"]
    for part, field in (
        ({"training": {"optimizer": "adafactor"}}, "training.optimizer"),
        ({"training": {"precision": "bf16"}}, "training.precision"),
        ({"training": {"gradient_checkpointing": True}}, "training.gradient_checkpointing"),
        ({"training": {"head_learning_rate": 0.1}}, "training.head_learning_rate"),
        ({"resources": {"gpus": 1}}, "resources.gpus"),
    ):
        answer = local.http.post("/v1/jobs", json=keras_spec(**part))
        assert answer.status_code == 422, answer.text
        error = answer.json()["error"]
        assert error["param"] == field
        assert "trainer and pytorch" in error["message"]
    refused = local.http.post("/v1/jobs", json=spec(export=["saved_model"]))
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "export")
    assert "works with tensorflow" in refused.json()["error"]["message"]
