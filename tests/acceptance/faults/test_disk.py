"""A disk that fills up: a typed error, nothing stored is lost, and all goes on once there is room."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment
from injection import unhurried
from tiny import sentences, spec

MIB = 1024**2
STEADY = {"strategy": "steps", "every": 20, "keep": 1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Leave only so many bytes of the disk free; returns the file that takes the rest.

    A job that writes at the same moment can take a part first, so the rest is counted again until the file has it.
    """
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        while True:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if free <= leave:
                    return ballast
            else:
                return ballast


def rows(count: int) -> bytes:
    return "\n".join(
        ["text,label", *(f"{row['text']} {n},{row['label']}" for n, row in enumerate(sentences(count)))]
    ).encode()


@pytest.mark.parametrize("setting", ["TUNESMITH_STORAGE_URL", "TUNESMITH_CACHE_DIR"])
def test_an_upload_without_room_is_refused_and_what_was_there_stays(
    small_disk: Path, local: Deployment, setting: str
) -> None:
    local.settings[setting] = f"file://{small_disk}/storage" if setting.endswith("URL") else str(small_disk / "cache")
    local.start_api()
    kept = local.http.post("/v1/datasets", files={"file": ("small.csv", rows(100))})
    assert kept.status_code == 201
    ballast = fill(small_disk, leave=256 * 1024)
    refused = local.http.post("/v1/datasets", files={"file": ("large.csv", rows(40_000))})
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "insufficient_storage"), refused.text
    assert refused.headers["x-should-retry"] == "false"
    preview = local.http.get(f"/v1/datasets/{kept.json()['id']}/rows", params={"limit": 1})
    assert preview.json()["data"][0]["text"].endswith(" 0")
    assert [item["id"] for item in local.client.get("/v1/datasets")["data"]] == [kept.json()["id"]]
    ballast.unlink()
    again = local.http.post("/v1/datasets", files={"file": ("large.csv", rows(40_000))})
    assert again.status_code == 201, again.text


@pytest.mark.faults
def test_a_checkpoint_without_room_ends_the_attempt_and_the_job_goes_on_from_the_one_before(
    small_disk: Path, local: Deployment
) -> None:
    local.settings.update({"TUNESMITH_CACHE_DIR": str(small_disk / "cache")})
    local.start_api()
    worker = local.start_worker(**unhurried())
    body = spec(training={"max_steps": 200}, data={"eval": None}, checkpoints=STEADY)
    undisturbed = local.client.post("/v1/jobs", body)
    assert local.wait_for_end(undisturbed["id"])["status"] == "succeeded"
    job = local.client.post("/v1/jobs", body)
    checkpoints = f"/v1/jobs/{job['id']}/checkpoints"
    local.wait_for(job["id"], lambda _: bool(local.client.get(checkpoints)["data"]))
    ballast = fill(small_disk, leave=0)
    failed = local.wait_for(job["id"], lambda seen: bool(seen["error"]), 60)
    assert failed["error"]["code"] == "disk_full", failed
    assert "TUNESMITH_CACHE_DIR" in failed["error"]["hint"]
    assert local.client.get(checkpoints)["data"], "the old checkpoint is gone"
    ballast.unlink()
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["failures"]) == ("succeeded", 0), done
    later = [
        event["data"]["step"]
        for event in local.client.events(job["id"], 0)
        if event["type"] == "metric" and event["attempt"] == done["attempt"]
    ]
    assert min(later) > 20, "the last attempt began at the first step"
    assert local.model_sha(job["id"]) == local.model_sha(undisturbed["id"])
    assert worker.popen.poll() is None


@pytest.mark.faults
def test_a_model_without_room_in_storage_is_published_once_there_is_some(small_disk: Path, local: Deployment) -> None:
    local.settings.update({"TUNESMITH_STORAGE_URL": f"file://{small_disk}/storage"})
    local.start_api()
    local.start_worker()
    earlier = local.client.post("/v1/jobs", spec())
    assert local.wait_for_end(earlier["id"])["status"] == "succeeded"
    ballast = fill(small_disk, leave=64 * 1024)
    job = local.client.post("/v1/jobs", spec(checkpoints={"strategy": "none"}, data={"eval": None}))
    failed = local.wait_for(job["id"], lambda seen: bool(seen["error"]), 60)
    assert failed["error"]["code"] == "storage_full", failed
    assert local.http.get(f"/v1/jobs/{earlier['id']}/archive").status_code == 200
    ballast.unlink()
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["failures"], done["error"]) == ("succeeded", 0, None), done
