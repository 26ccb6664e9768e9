"""Every command, as a person types it, against a running service."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deployment import Deployment, Process, wait_until
from injection import unhurried
from tiny import sentences, spec


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in sentences(48))]) + "\n")
    return path


def test_a_job_from_upload_to_download(local: Deployment, tmp_path: Path, csv_file: Path) -> None:
    local.start_api()
    worker = local.start_worker()
    uploaded = local.tunesmith("datasets", "upload", str(csv_file))
    dataset = uploaded.split(":")[0]
    assert "48 rows of text (string), label (string)" in uploaded
    assert dataset in local.tunesmith("datasets", "list")
    assert '"_line": 2' in local.tunesmith("datasets", "show", dataset)

    body = tmp_path / "job.json"
    body.write_text(json.dumps(spec(name="by hand", data={"train": {"dataset": dataset}})))
    watched = local.tunesmith("submit", str(body), "--watch", "--idempotency-key", "once")
    job = watched.split()[0]
    assert re.search(rf"{job} succeeded: .*eval_accuracy 1", watched)
    assert local.tunesmith("submit", str(body), "--idempotency-key", "once").split()[0] == job
    assert "succeeded" in local.tunesmith("watch", job)
    assert re.search(rf"{job} +│ by hand +│ succeeded", local.tunesmith("jobs", "--status", "succeeded"))
    assert local.tunesmith("logs", job) is not None

    folder = tmp_path / "model"
    assert "every sha256 was verified" in local.tunesmith("download", job, str(folder))
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    partial = weights.with_name("model.safetensors.part")
    partial.write_bytes(whole[: len(whole) // 2])
    weights.unlink()
    local.tunesmith("download", job, str(folder))
    assert weights.read_bytes() == whole
    assert not partial.exists()

    weights.write_bytes(b"x" * len(whole))
    local.tunesmith("download", job, str(folder))
    assert weights.read_bytes() == whole, "a file with wrong bytes was kept"
    partial.write_bytes(b"x" * (len(whole) // 2))
    weights.unlink()
    assert "sha256" in local.tunesmith("download", job, str(folder), code=2)
    local.tunesmith("download", job, str(folder))
    assert weights.read_bytes() == whole

    assert "409" in local.tunesmith("cancel", job, code=2)
    assert "is deleted" in local.tunesmith("datasets", "delete", dataset)
    assert worker.stop() == 0


def test_a_job_learns_from_several_files_as_one_dataset(local: Deployment, tmp_path: Path, csv_file: Path) -> None:
    local.start_api()
    local.start_worker()
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps(row) + "\n" for row in sentences(24)))
    uploaded = local.tunesmith("datasets", "upload", str(csv_file), str(more), "--name", "both")
    dataset = uploaded.split(":")[0]
    assert "72 rows of text (string), label (string) in 2 files" in uploaded
    assert re.search(rf"{dataset} +│ both +│ 72", local.tunesmith("datasets", "list"))
    assert '"_file": "reviews.csv"' in local.tunesmith("datasets", "show", dataset)
    body = tmp_path / "job.json"
    body.write_text(json.dumps(spec(data={"train": {"dataset": dataset}})))
    job = local.tunesmith("submit", str(body)).strip()
    ended = local.wait_for_end(job)
    assert (ended["status"], ended["error"]) == ("succeeded", None)

    more.write_text('{"text": "a", "labels": "good"}\n')
    refused = local.tunesmith("datasets", "upload", str(csv_file), str(more), code=2)
    assert "'more.jsonl' has no column 'label', which 'reviews.csv' has; did you mean 'labels'? Rename it" in refused
    assert "all files of one dataset have the same columns" in refused


def test_failed_and_cancelled_jobs_have_exit_codes_of_their_own(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    local.start_worker()
    body = tmp_path / "job.json"
    (local.folder / "models" / "empty").mkdir()
    body.write_text(json.dumps(spec(model="local:empty")))
    failed = local.tunesmith("submit", str(body), "--watch", code=1)
    assert "failed (model_not_found)" in failed
    body.write_text(json.dumps(spec(training={"max_steps": 50_000})))
    job = local.tunesmith("submit", str(body)).strip()
    assert "cancelled" in local.tunesmith("cancel", job) or local.wait_for_end(job)
    assert "was cancelled" in local.tunesmith("watch", job, code=3)


def test_a_watch_outlives_a_restart_of_the_service(local: Deployment, tmp_path: Path) -> None:
    api = local.start_api()
    local.start_worker(**unhurried())
    body = tmp_path / "job.json"
    body.write_text(json.dumps(spec(training={"max_steps": 50_000})))
    log_file = tmp_path / "watch.log"
    with log_file.open("wb") as log:
        command = [Path(sys.executable).parent / "tunesmith", "submit", str(body), "--watch"]
        watching = Process(subprocess.Popen(command, env=local.environment(), stdout=log, stderr=log), log_file)
    try:
        wait_until(lambda: "running, attempt 1" in watching.log, watching)
        api.stop()
        wait_until(lambda: "the service is unreachable" in watching.log, watching)
        local.start_api(int(local.url.rpartition(":")[2]))
        wait_until(lambda: "the service answers again" in watching.log, watching)
        local.tunesmith("cancel", watching.log.split()[0])
        assert watching.popen.wait(60) == 3, watching.log
    finally:
        watching.popen.kill()
        watching.popen.wait()
    assert watching.log.count("the service is unreachable") == 1
    assert "was cancelled" in watching.log


def test_names_are_shown_as_they_are(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    local.start_worker()
    names = {"good": "[/INST]", "bad": ":warning: [red]"}
    labelled = [{"[/b]": row["text"], "label": names[row["label"]]} for row in sentences(20)]
    data = tmp_path / "data [red].jsonl"
    data.write_text("\n".join(map(json.dumps, labelled)))
    uploaded = local.tunesmith("datasets", "upload", str(data))
    assert "20 rows of [/b] (string), label (string)" in uploaded
    assert data.name in local.tunesmith("datasets", "list")
    body = tmp_path / "job.json"
    source = {"dataset": uploaded.split(":")[0]}
    training = {"max_steps": 2}
    body.write_text(
        json.dumps(
            spec(
                name="run [/x]", data={"train": source, "eval": source, "columns": {"text": "[/b]"}}, training=training
            )
        )
    )
    watched = local.tunesmith("submit", str(body), "--watch")
    assert "2 classes were learned from train: :warning: [red], [/INST]" in watched
    assert "run [/x]" in local.tunesmith("jobs")
    body.write_text(json.dumps(spec(**{"[/x]": 1})))
    assert "[/x]: unknown field" in local.tunesmith("submit", str(body), code=2)


def test_refusals_are_printed_with_field_and_row(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    body = tmp_path / "job.json"
    body.write_text(json.dumps(spec(training={"learnin_rate": 1})))
    assert "did you mean 'learning_rate'?" in local.tunesmith("submit", str(body), code=2)
    rows = [*sentences(10), {"text": " ", "label": "good"}]
    body.write_text(json.dumps(spec(data={"train": {"rows": rows}})))
    assert "train row 11, column 'text': the text is empty" in local.tunesmith("submit", str(body), code=2)
    body.write_text("{")
    assert "is not JSON" in local.tunesmith("submit", str(body), code=2)
    broken = tmp_path / "broken.csv"
    broken.write_text('text,label\n"open,good\n')
    assert "line 2" in local.tunesmith("datasets", "upload", str(broken), code=2)


def test_keys_are_made_listed_and_revoked(local: Deployment) -> None:
    local.start_api()
    key = local.tunesmith("keys", "create", "laptop", "--project", "search").strip()
    assert key not in local.tunesmith("keys", "list")
    key_id = "key_" + key.split("_")[1]
    listed = local.tunesmith("keys", "list")
    assert re.search(rf"{key_id} +│ search +│ laptop +│ submit +│ live", listed)
    local.tunesmith("keys", "create", "reader", "--role", "read", "--days", "1")
    assert re.search(r"reader +│ read +│ until 20", local.tunesmith("keys", "list"))
    assert "must be one of" in local.tunesmith("keys", "create", "x", "--role", "owner", code=2)
    local.key = key
    local.tunesmith("jobs")
    assert "is revoked" in local.tunesmith("keys", "revoke", key_id)
    # Every process of the service refuses it within a second.
    time.sleep(1)
    assert "401" in local.tunesmith("jobs", code=2)
    assert "no valid key" in local.tunesmith("keys", "revoke", key_id, code=1)


def test_without_a_service_or_a_key_the_commands_say_what_to_do(local: Deployment) -> None:
    local.url = "http://127.0.0.1:9"
    assert "tunesmith up" in local.tunesmith("jobs", code=2)
    local.key = ""
    assert "TUNESMITH_API_KEY" in local.tunesmith("jobs", code=2)


def test_migrate_brings_an_empty_database_up_and_says_so(local: Deployment) -> None:
    local.settings["TUNESMITH_DATABASE_URL"] = f"sqlite:///{local.folder / 'new.db'}"
    assert "newest migration" in local.tunesmith("migrate")


def test_up_writes_a_key_that_only_its_owner_can_read(local: Deployment, tmp_path: Path) -> None:
    local.settings["TUNESMITH_DATABASE_URL"] = ""
    up = local.start_up()
    key_file = local.folder / "api-key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    local.key = key_file.read_text().strip()
    local.tunesmith("jobs")
    first = local.key
    assert up.stop() == 0
    again = local.start_up(is_worker_ready=False)
    assert key_file.read_text().strip() == first
    assert again.stop() == 0
    assert again.log.count("takes jobs for") == 0, "it was asked to stop while its worker still imported torch"


def test_training_processes_see_no_secret_of_the_service(fleet: Deployment) -> None:
    fleet.settings["TUNESMITH_API_KEY"] = "ts_secret"
    fleet.start_api()
    # The kernel shows the environment with which a process was started, which a fork shares with its parent.
    worker = fleet.start_worker(TUNESMITH_TEST_COLD="1")
    job = fleet.client.post("/v1/jobs", spec(training={"max_steps": 5000}))
    fleet.wait_for(job["id"], lambda seen: bool(seen["progress"]))
    environment = Path(f"/proc/{worker.training_pid}/environ").read_bytes().decode()
    names = {entry.partition("=")[0] for entry in environment.split("\0")}
    assert "PATH" in names
    assert not [name for name in names if name.startswith(("TUNESMITH_", "AWS_"))]
    assert os.environ.get("PATH", "") in environment
    fleet.client.post(f"/v1/jobs/{job['id']}/cancel")
    fleet.wait_for_end(job["id"])


def test_a_job_is_paused_resumed_and_retried(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    body = tmp_path / "job.json"
    body.write_text(json.dumps(spec()))
    job = local.tunesmith("submit", str(body)).strip()
    assert "paused" in local.tunesmith("pause", job)
    assert "queued" in local.tunesmith("resume", job)
    assert "only a paused job can be resumed" in local.tunesmith("resume", job, code=2)
    assert "only a job that has ended can be retried" in local.tunesmith("retry", job, code=2)
    local.tunesmith("cancel", job)
    child = local.tunesmith("retry", job).strip()
    assert local.client.get(f"/v1/jobs/{child}")["parent_id"] == job
    assert "it has checkpoints at steps: none" in local.tunesmith("retry", job, "--from-checkpoint", "latest", code=2)
