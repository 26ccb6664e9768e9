"""Memory that runs out: only the training process ends, and the job says so or goes on with less."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment, Process
from injection import unhurried
from tiny import make_model, sentences, spec

GIB = 1024**3
LIMIT = int(2.4 * GIB)
"""Above what the libraries take by themselves, and below what 16 long rows at once need."""
LONG_ROWS = [{**row, "text": " ".join([row["text"]] * 120)} for row in sentences(32)]


@pytest.fixture(scope="session")
def hungry_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small to store, but a forward pass of 16 rows of 512 tokens takes more than a GiB."""
    return make_model(tmp_path_factory.mktemp("model") / "hungry", max_position_embeddings=512, intermediate_size=8192)


@pytest.fixture
def limited(local: Deployment, hungry_model: Path) -> Deployment:
    local.settings["TUNESMITH_TRAINING_MEMORY_BYTES"] = str(LIMIT)
    (local.folder / "models" / "hungry").symlink_to(hungry_model)
    local.start_api()
    return local


def hungry(batch_size: int | str, **more: Any) -> dict[str, Any]:
    return spec(
        model="local:hungry",
        data={"train": {"rows": LONG_ROWS}, "eval": None},
        training={"max_steps": 4, "batch_size": batch_size, "learning_rate": 0.001, **more},
        evaluation={"at_start": False},
    )


@pytest.mark.faults
def test_a_batch_that_does_not_fit_fails_with_the_peak_and_what_to_change_and_the_worker_lives_on(
    limited: Deployment,
) -> None:
    worker = limited.start_worker()
    job = limited.client.post("/v1/jobs", hungry(16))
    done = limited.wait_for_end(job["id"])
    assert (done["status"], done["attempt"], done["error"]["code"]) == ("failed", 1, "out_of_memory"), done
    assert "16 rows" in done["error"]["message"]
    assert '"auto"' in done["error"]["hint"]
    assert "gradient_accumulation 2" in done["error"]["hint"]
    details = done["error"]["details"]
    assert 0.2 * GIB < details["peak_bytes"] < LIMIT
    assert (details["phase"], details["batch_size"], details["device"]) == ("training", 16, "cpu")
    after = limited.client.post("/v1/jobs", spec())
    assert limited.wait_for_end(after["id"])["status"] == "succeeded"
    assert worker.popen.poll() is None


@pytest.mark.faults
@pytest.mark.parametrize("engine", ["trainer", "tensorflow"])
def test_an_automatic_batch_is_halved_until_it_fits_and_a_step_keeps_its_rows(limited: Deployment, engine: str) -> None:
    limited.start_worker()
    job = limited.client.post("/v1/jobs", hungry("auto", engine=engine))
    # Each attempt has the usual time, because each one starts TensorFlow again.
    limited.wait_for(job["id"], lambda seen: seen["attempt"] > 1)
    done = limited.wait_for_end(job["id"])
    assert (done["status"], done["failures"], done["error"]) == ("succeeded", 0, None), limited.logs()
    size, passes = done["resolved"]["batch_size"], done["resolved"]["gradient_accumulation"]
    assert size < 16
    assert size * passes == 16
    assert done["progress"]["of"] == 4
    events = list(limited.client.events(job["id"], 0))
    shrunk = [event["data"] for event in events if event["data"].get("reason") == "out_of_memory"]
    assert len(shrunk) == done["attempt"] - 1 >= 1
    assert "a step still takes 16 rows" in shrunk[0]["error"]["hint"]


@pytest.mark.faults
def test_an_evaluation_that_does_not_fit_halves_its_own_batch_only(limited: Deployment) -> None:
    limited.start_worker()
    asked = hungry(1)
    asked |= {"data": {"train": {"rows": LONG_ROWS[:4]}, "eval": {"rows": LONG_ROWS}}}
    done = limited.wait_for_end(limited.client.post("/v1/jobs", asked)["id"])
    assert (done["status"], done["failures"]) == ("succeeded", 0), limited.logs()
    resolved = done["resolved"]
    assert (resolved["batch_size"], resolved["gradient_accumulation"]) == (1, 1)
    assert resolved["eval_batch_size"] < 32
    events = limited.client.events(done["id"], 0)
    failures = [event["data"]["error"] for event in events if event["data"].get("reason") == "out_of_memory"]
    assert failures[0]["details"]["phase"] == "evaluating"


@pytest.mark.faults
def test_a_kill_by_the_kernel_for_want_of_memory_is_distinguished_from_a_crash(local: Deployment) -> None:
    local.start_api()
    worker = local.start_worker(**unhurried())
    body = spec(
        training={"max_steps": 200, "batch_size": "auto"},
        data={"eval": None},
        checkpoints={"strategy": "steps", "every": 40},
        evaluation={"at_start": False},
    )
    job = local.client.post("/v1/jobs", body)
    checkpoints = f"/v1/jobs/{job['id']}/checkpoints"
    local.wait_for(job["id"], lambda _: bool(local.client.get(checkpoints)["data"]))
    with starving_group(worker):
        again = local.wait_for(job["id"], lambda seen: seen["attempt"] == 2, 60)
    assert again["error"]["code"] == "out_of_memory", again
    assert (again["failures"], again["resolved"]["batch_size"], again["resolved"]["gradient_accumulation"]) == (0, 8, 2)
    assert again["error"]["details"]["peak_bytes"] > 0.1 * GIB
    done = local.wait_for_end(job["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 2), done
    assert worker.popen.poll() is None


@contextmanager
def starving_group(worker: Process) -> Iterator[None]:
    """Move the training process into a control group that gives it no further memory."""
    group, limit = _new_group()
    pid = worker.training_pid
    try:
        (group / limit).write_text(str(256 * 1024))
        # It is moved while it stands still: the worker looks five times a second which group it is in, and a process is
        # seldom moved as this one is.
        os.kill(pid, signal.SIGSTOP)
        (group / "cgroup.procs").write_text(str(pid))
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        yield
    finally:
        group.rmdir()


def _new_group() -> tuple[Path, str]:
    top = Path("/sys/fs/cgroup")
    memberships = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    places = [
        (top / "memory" / path.lstrip("/"), "memory.limit_in_bytes")
        if controllers
        else (top / path.lstrip("/"), "memory.max")
        for _, controllers, path in memberships
        if controllers in ("", "memory")
    ]
    reasons: list[str] = []
    for parent, limit in places:
        group = parent / f"tunesmith-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            continue
        if (group / limit).exists() and os.access(group / limit, os.W_OK):
            return group, limit
        group.rmdir()
        reasons.append(f"{parent}: without {limit}")
    pytest.skip(f"no memory control group can be made here ({'; '.join(reasons)})")
