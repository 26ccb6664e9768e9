"""The training process dies, or hangs, at every stage of its life."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from deployment import Answer, Deployment, is_alive
from injection import Kill, happened, injected, unhurried
from tiny import sentences, spec

FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "rng_state.pth", "scheduler.pt", "tokenizer.json",
         "tokenizer_config.json", "trainer_state.json", "tunesmith.json"]  # fmt: skip
"""Of a checkpoint, in the order in which they are committed."""
MODEL_FILES = ["README.md", "config.json", "evaluation/predictions.jsonl", "evaluation/report.json", "job.json",
               "model.safetensors", "tokenizer.json", "tokenizer_config.json"]  # fmt: skip
STEADY = {"strategy": "steps", "every": 40}
LONG = spec(training={"max_steps": 200}, checkpoints={"strategy": "steps", "every": 20}, data={"eval": None})
PATIENT = {"TUNESMITH_MAX_FAILURES": "50", "TUNESMITH_MAX_STALLED": "50", "TUNESMITH_BACKOFF_SECONDS": "0"}


def undisturbed(service: Deployment, body: dict[str, Any]) -> Answer:
    job = service.client.post("/v1/jobs", body)
    done = service.wait_for_end(job["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 1), done
    return done


def during_a_commit(folder: str, files: list[str]) -> list[Kill]:
    """Before each file of a folder is flushed, before its manifest, before it is synced, before it is renamed."""
    building = rf"/\.{folder}\.building"
    return [
        Kill("os.rename", rf"{building}$"),
        *(Kill("open", rf"{building}/{file}$") for file in files),
        Kill("open", rf"{building}/manifest\.json$"),
        Kill("open", rf"{building}$"),
        Kill("os.rename", rf"{building} -> .*/{folder}$"),
    ]


@pytest.mark.faults
def test_kill_9_ends_in_a_second_attempt_that_resumes_to_the_same_weights(service: Deployment) -> None:
    service.start_api()
    worker = service.start_worker(**unhurried())
    body = spec(training={"max_steps": 160}, checkpoints=STEADY, evaluation={"strategy": "steps", "every": 20})
    reference = undisturbed(service, body)

    job = service.client.post("/v1/jobs", body)
    service.wait_for_checkpoint(job["id"])
    os.kill(worker.training_pid, signal.SIGKILL)
    done = service.wait_for_end(job["id"])

    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 2, 1), done
    events = list(service.client.events(job["id"], 0))
    reasons = [event["data"]["reason"] for event in events if event["type"] == "status"]
    assert reasons == ["submitted", "claimed", "attempt_failed", "claimed", "finished"]
    second = [event["data"]["step"] for event in events if event["type"] == "metric" and event["attempt"] == 2]
    assert min(second) > 1, "the second attempt began at the first step"
    assert service.model_sha(job["id"]) == service.model_sha(reference["id"])


@pytest.mark.faults
def test_kill_9_while_tokenizing_and_while_evaluating_changes_nothing(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    worker = local.start_worker()
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in sentences(60_000))]) + "\n")
    source = {"dataset": local.client.upload(rows)["id"]}
    body = spec(
        data={"train": source, "eval": source, "subset": {"eval": 8_000}},
        training={"max_steps": 40},
        evaluation={"at_start": False},
    )
    job = local.client.post("/v1/jobs", body)
    for attempt, phase in ((1, "tokenizing"), (2, "evaluating")):

        def reached(seen: Answer, attempt: int = attempt, phase: str = phase) -> bool:
            return (seen["attempt"], seen["phase"]) == (attempt, phase)

        local.wait_for(job["id"], reached)
        os.kill(worker.training_pid, signal.SIGKILL)
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 3, 2), done
    # Only now: with the tokens of an earlier job there would be nothing to tokenize.
    reference = undisturbed(local, body)
    assert local.model_sha(job["id"]) == local.model_sha(reference["id"])


@pytest.mark.faults
def test_a_death_between_any_two_files_of_a_checkpoint_costs_only_that_checkpoint(
    local: Deployment, tmp_path: Path
) -> None:
    kills = during_a_commit("step-00000080", FILES)
    local.settings.update(PATIENT)
    local.start_api()
    body = spec(training={"max_steps": 120}, checkpoints=STEADY, data={"eval": None})
    local.start_worker(**injected(tmp_path / "done", *kills))
    job = local.client.post("/v1/jobs", body)
    done = local.wait_for_end(job["id"])
    assert happened(tmp_path / "done") == list(range(len(kills)))
    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", len(kills) + 1, len(kills)), done
    files = local.client.get(f"/v1/jobs/{job['id']}/artifacts", checkpoint=120)["data"]
    assert sorted(file["path"] for file in files) == FILES, "a file was never the last one"
    second = {
        event["data"]["step"]
        for event in local.client.events(job["id"], 0)
        if event["type"] == "metric" and event["attempt"] == 2
    }
    assert min(second) == 41
    assert local.model_sha(job["id"]) == local.model_sha(undisturbed(local, body)["id"])


@pytest.mark.faults
def test_a_death_between_any_two_files_of_the_model_is_made_good(local: Deployment, tmp_path: Path) -> None:
    kills = during_a_commit("model", MODEL_FILES)
    local.settings.update(PATIENT)
    local.start_api()
    body = spec(training={"max_steps": 40}, checkpoints=STEADY)
    local.start_worker(**injected(tmp_path / "done", *kills))
    job = local.client.post("/v1/jobs", body)
    done = local.wait_for_end(job["id"])
    assert happened(tmp_path / "done") == list(range(len(kills)))
    assert (done["status"], done["attempt"]) == ("succeeded", len(kills) + 1), done
    published = local.client.get(f"/v1/jobs/{job['id']}/artifacts")["data"]
    assert sorted(file["path"] for file in published) == MODEL_FILES
    assert local.model_sha(job["id"]) == local.model_sha(undisturbed(local, body)["id"])


@pytest.mark.faults
def test_two_slots_whose_processes_are_both_killed_both_resume(local: Deployment) -> None:
    local.start_api()
    worker = local.start_worker("--slots", "2", **unhurried())
    jobs = [local.client.post("/v1/jobs", LONG)["id"] for _ in range(2)]
    for job_id in jobs:
        local.wait_for_checkpoint(job_id)
    for pid in worker.training_pids:
        os.kill(pid, signal.SIGKILL)
    for job_id in jobs:
        done = local.wait_for_end(job_id)
        assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 2, 1), done
    reference = undisturbed(local, LONG)
    assert {local.model_sha(job_id) for job_id in jobs} == {local.model_sha(reference["id"])}


@pytest.mark.faults
def test_one_that_is_stopped_is_killed_by_the_watchdog_and_tried_again(local: Deployment) -> None:
    local.settings["TUNESMITH_HUNG_SECONDS"] = "4"
    local.start_api()
    worker = local.start_worker(**unhurried())
    job = local.client.post("/v1/jobs", LONG)
    local.wait_for_checkpoint(job["id"])
    hung = worker.training_pid
    os.kill(hung, signal.SIGSTOP)
    retried = local.wait_for(job["id"], lambda seen: seen["attempt"] == 2, 30)
    assert retried["error"]["code"] == "training_hung"
    assert not is_alive(hung)
    assert local.wait_for_end(job["id"])["status"] == "succeeded"


@pytest.mark.faults
def test_a_forkserver_that_is_killed_takes_its_children_along_and_a_new_one_is_started(local: Deployment) -> None:
    local.start_api()
    worker = local.start_worker("--slots", "2", **unhurried())
    jobs = [local.client.post("/v1/jobs", LONG)["id"] for _ in range(2)]
    for job_id in jobs:
        local.wait_for_checkpoint(job_id)
    children = worker.training_pids
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in children}
    assert len(parents) == 1
    assert worker.popen.pid not in parents
    os.kill(parents.pop(), signal.SIGKILL)
    deadline = time.monotonic() + 2
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, children)), "a training process outlived its forkserver by 2 s"
    for job_id in jobs:
        done = local.wait_for_end(job_id)
        assert (done["status"], done["attempt"], done["workers_lost"]) == ("succeeded", 2, 0), done
    assert worker.popen.poll() is None
    assert local.model_sha(jobs[0]) == local.model_sha(jobs[1])
