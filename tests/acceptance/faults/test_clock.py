"""The clock of one machine of the fleet is wrong by an hour."""

import re
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pytest
from deployment import Deployment, Process
from injection import unhurried
from tiny import spec

HOUR = 3600
JOB = spec(training={"max_steps": 200}, checkpoints={"strategy": "steps", "every": 30}, data={"eval": None})


def wrong_by(seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is wrong. Its monotonic clock is right, as it is on such a machine."""
    package = find_spec("libfaketime")
    assert package is not None
    assert package.origin is not None
    library = Path(package.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    assert library.is_file(), library
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def clock_error(process: Process) -> float:
    """By how many seconds the newest line of a log is ahead of this test's clock."""
    newest = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),", process.log, re.MULTILINE)[-1]
    return datetime.fromisoformat(newest).astimezone().timestamp() - time.time()


@pytest.mark.faults
@pytest.mark.parametrize("error", [HOUR, -HOUR])
def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(fleet: Deployment, error: int) -> None:
    # A folder that machines share: there a store judges what is left behind by the times of files.
    storage = fleet.folder / "storage"
    fleet.settings["TUNESMITH_STORAGE_URL"] = f"file://{storage}"
    fleet.settings["TUNESMITH_UPKEEP_SECONDS"] = "1"
    wrong_api = fleet.start_api(**wrong_by(error))
    fleet.start_api()
    # The library looks at its variables again and again.
    passed_on = {"TUNESMITH_TRAINING_ENVIRONMENT": "FAULT_,FAKETIME,DONT_FAKE,LD_PRELOAD"}
    wrong = fleet.start_worker(**wrong_by(error), **unhurried() | passed_on)
    right = fleet.start_worker(**unhurried())
    for process in (wrong_api, wrong):
        assert abs(clock_error(process) - error) < HOUR / 4
    assert abs(clock_error(right)) < HOUR / 4

    unfinished = storage / "jobs" / "somebody" / ".put-1"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"somebody is writing this")
    jobs = [fleet.client.post("/v1/jobs", JOB)["id"] for _ in range(2)]
    for job_id in jobs:
        fleet.wait_for_checkpoint(job_id)
    for job_id in jobs:
        done = fleet.wait_for_end(job_id)
        assert (done["status"], done["attempt"], done["workers_lost"]) == ("succeeded", 1, 0), done
        assert abs(datetime.now(UTC) - datetime.fromisoformat(done["finished_at"])).total_seconds() < HOUR / 4
        assert len(fleet.client.get(f"/v1/jobs/{job_id}/checkpoints")["data"]) == 2
    assert [len(worker.training_pids) for worker in (wrong, right)] == [1, 1], "one worker did not take its part"
    assert unfinished.exists()
    assert "silent" not in wrong.log + right.log + wrong_api.log
