"""The worker dies while it publishes."""

import signal
from pathlib import Path

import pytest
from deployment import Deployment
from injection import Kill, happened, injected
from tiny import spec

MODEL = r"/out/model"
KILLS = (
    # The weights are read once, to upload them.
    Kill("open", rf"{MODEL}/model\.safetensors$"),
    # The manifest is read to check the folder, to upload it, and, when it is in storage, for the row's checksum.
    Kill("open", rf"{MODEL}/manifest\.json$", nth=3),
)


@pytest.mark.faults
def test_a_death_before_the_success_is_committed_leaves_one_model_and_nothing_else(
    service: Deployment, tmp_path: Path
) -> None:
    service.start_api()
    storage, models = service.open_storage(), []
    job = service.client.post("/v1/jobs", spec(training={"max_steps": 40}))
    for attempt in (1, 2):
        doomed = service.start_worker(**injected(tmp_path / "done", *KILLS))
        assert doomed.popen.wait(60) == -signal.SIGKILL
        assert service.client.get(f"/v1/jobs/{job['id']}")["attempt"] == attempt
        models.append(set(storage.list(f"jobs/{job['id']}/a{attempt}/model")))
    assert happened(tmp_path / "done") == [0, 1]
    cut_off, whole = models
    assert f"jobs/{job['id']}/a1/model/README.md" in cut_off
    assert f"jobs/{job['id']}/a1/model/model.safetensors" not in cut_off
    assert f"jobs/{job['id']}/a2/model/manifest.json" in whole, "it died before all was published"

    service.start_worker()
    done = service.wait_for_end(job["id"])
    assert (done["status"], done["attempt"], done["workers_lost"]) == ("succeeded", 3, 2), done
    files = service.client.get(f"/v1/jobs/{job['id']}/artifacts")["data"]
    assert len(files) == len(whole) - 1
