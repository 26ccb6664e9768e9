"""What training processes are kept from, what other users of the machine see, and what projects learn of each other."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from deployment import Deployment
from injection import unhurried
from tiny import spec

from worker import landlock

CANARY = "canary-7f3a9c"


def test_a_training_process_has_no_secrets_and_no_privileges(local: Deployment) -> None:
    local.start_api()
    worker = local.start_worker(
        **{**unhurried(), "TUNESMITH_TRAINING_ENVIRONMENT": "FAULT_,MY_SETTING"},
        AWS_SECRET_ACCESS_KEY=CANARY,
        DATABASE_PASSWORD=CANARY,
        SOME_TOKEN=CANARY,
        MY_SETTING="kept",
        # A warm interpreter would show what it was started with itself.
        TUNESMITH_TEST_COLD="1",
    )
    job = local.client.post("/v1/jobs", spec(training={"max_steps": 200}))
    local.wait_for(job["id"], lambda found: bool(found["progress"] and found["progress"]["step"] > 1))
    process = Path(f"/proc/{worker.training_pid}")
    environment = (process / "environ").read_bytes().decode()
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    limits = (process / "limits").read_text()
    local.client.post(f"/v1/jobs/{job['id']}/cancel", None)

    assert CANARY not in environment
    assert "TUNESMITH_DATABASE_URL" not in environment
    assert "MY_SETTING=kept" in environment
    assert status["NoNewPrivs"].strip() == "1"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")} == {0}
    assert re.search(r"Max core file size\s+0\s+0", limits)
    # All the memory of the machine, less a tenth.
    assert re.search(r"Max data size\s+\d+\s+\d+", limits), limits

    reported = local.client.get("/v1/workers")["data"][0]["hardware"]["isolation"]
    version = landlock.abi()
    assert reported == {
        "user": "root" if os.getuid() == 0 else "own",
        "landlock_abi": version,
        "files": version > 0,
        "network": version >= landlock.NETWORK_ABI,
        "signals": version >= landlock.SCOPE_ABI,
        "memory_bytes": reported["memory_bytes"],
    }
    assert reported["memory_bytes"] > 0


@pytest.mark.skipif(landlock.abi() > 0, reason="this kernel has Landlock")
def test_a_required_sandbox_keeps_a_worker_from_starting_without_it(local: Deployment) -> None:
    local.start_api()
    with pytest.raises(AssertionError):
        local.start_worker(TUNESMITH_SANDBOX="required")


def test_nothing_is_open_to_other_users_of_the_machine(local: Deployment) -> None:
    before = os.umask(0o022)
    try:
        local.folder.chmod(0o755)
        local.start_up()
    finally:
        os.umask(before)
    job = local.client.post("/v1/jobs", spec(training={"max_steps": 4}))
    assert local.wait_for_end(job["id"])["status"] == "succeeded", local.logs()

    assert stat.S_IMODE(local.folder.stat().st_mode) == 0o700
    made = [
        path
        for name in ("storage", "cache", "tunesmith.db", "tunesmith.db-wal", "api-key")
        for path in [local.folder / name, *(local.folder / name).rglob("*")]
        if path.exists() and not path.is_symlink()
    ]
    assert len(made) > 10
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []


def test_the_token_cache_says_nothing_of_other_projects(local: Deployment) -> None:
    local.start_api()
    local.start_worker()
    first = local.client.post("/v1/jobs", spec(training={"max_steps": 2}))["id"]
    assert local.wait_for_end(first)["status"] == "succeeded"
    local.key = local.new_key("other")
    second = local.client.post("/v1/jobs", spec(training={"max_steps": 2}))["id"]
    assert local.wait_for_end(second)["status"] == "succeeded"

    told = json.dumps(list(local.client.events(second, 0)))

    assert "cache" not in told
    folders = [path.name for path in (local.folder / "cache" / "tokens").iterdir()]
    assert len(folders) == 2
    assert all(name.startswith("proj_") for name in folders)


def test_a_template_that_takes_all_memory_takes_only_its_share(local: Deployment) -> None:
    """Two slots share the machine, and neither can take what the other needs."""
    local.start_api()
    local.start_worker(TUNESMITH_SLOTS="2")
    reported = local.client.get("/v1/workers")["data"][0]
    machine = reported["hardware"]["memory_bytes"]
    assert 0 < reported["hardware"]["isolation"]["memory_bytes"] <= machine * 0.45 + 1
