"""API and worker are asked to stop in the middle of a job."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment
from injection import unhurried
from tiny import spec

from app.settings import Settings

LONG = spec(training={"max_steps": 250}, checkpoints={"strategy": "none"}, data={"eval": None})


class Reader(threading.Thread):
    """Reads a job's event stream until it is closed."""

    def __init__(self, service: Deployment, job_id: str, last_id: int) -> None:
        super().__init__(daemon=True)
        self._service, self._job_id, self._last_id = service, job_id, last_id
        self.events: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        headers = {"accept": "text/event-stream", "last-event-id": str(self._last_id)}
        try:
            with (
                self._service.http as http,
                http.stream("GET", f"/v1/jobs/{self._job_id}/events", headers=headers) as response,
            ):
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        self.events.append(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError as error:
            self.error = error


@pytest.mark.faults
def test_sigterm_of_the_worker_saves_a_checkpoint_and_gives_the_job_back_uncounted(service: Deployment) -> None:
    service.start_api()
    worker = service.start_worker(**unhurried())
    job = service.client.post("/v1/jobs", LONG)
    service.wait_for(job["id"], lambda seen: bool(seen["progress"]) and seen["progress"]["step"] > 20)
    assert worker.stop(signal.SIGTERM, patience=30) == 0
    given_back = service.client.get(f"/v1/jobs/{job['id']}")
    assert (given_back["status"], given_back["failures"], given_back["workers_lost"]) == ("queued", 0, 0)
    kept = service.client.get(f"/v1/jobs/{job['id']}/checkpoints")["data"]
    assert kept[0]["step"] > 20

    service.start_worker()
    done = service.wait_for_end(job["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 2), done


@pytest.mark.faults
def test_sigterm_of_all_processes_of_a_worker_at_once_is_a_stop_and_no_crash(local: Deployment) -> None:
    local.start_api()
    worker = local.start_worker(**unhurried())
    job = local.client.post("/v1/jobs", LONG)
    local.wait_for(job["id"], lambda seen: bool(seen["progress"]) and seen["progress"]["step"] > 20)
    forkserver = int(Path(f"/proc/{worker.training_pid}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (forkserver, worker.training_pid):
        os.kill(pid, signal.SIGTERM)
    assert worker.stop(signal.SIGTERM, patience=30) == 0
    given_back = local.client.get(f"/v1/jobs/{job['id']}")
    assert (given_back["status"], given_back["failures"], given_back["workers_lost"]) == ("queued", 0, 0), given_back
    assert local.client.get(f"/v1/jobs/{job['id']}/checkpoints")["data"][0]["step"] > 20


def test_sigterm_while_the_worker_starts_stops_it(fleet: Deployment) -> None:
    fleet.start_api()
    for delay in (0.0, 0.1):
        worker = fleet.start_worker()
        time.sleep(delay)
        assert worker.stop(signal.SIGTERM, patience=20) == 0


@pytest.mark.faults
def test_sigterm_of_both_under_an_open_stream_loses_and_repeats_no_event(fleet: Deployment) -> None:
    api = fleet.start_api()
    worker = fleet.start_worker(**unhurried())
    job = fleet.client.post("/v1/jobs", LONG)
    first = Reader(fleet, job["id"], 0)
    fleet.wait_for(job["id"], lambda seen: bool(seen["progress"]))
    for process in (worker, api):
        process.is_asked_to_stop = True
        process.popen.send_signal(signal.SIGTERM)
    codes = _readiness_until_gone(fleet)
    first.join(20)
    assert not first.is_alive(), "the stream was left open"
    assert first.error is None, "the stream was torn off instead of closed"
    # Until the signal is handled it is ready; then it says that it is not, or takes no connection any more.
    assert sorted(codes) == codes
    assert set(codes) <= {200, 503}
    assert api.popen.wait(20) == 0
    assert worker.popen.wait(Settings().stop_grace_seconds) == 0
    assert "Traceback" not in api.log + worker.log

    fleet.start_api()
    assert fleet.client.get(f"/v1/jobs/{job['id']}")["status"] == "queued"
    second = Reader(fleet, job["id"], first.events[-1]["id"])
    fleet.start_worker()
    done = fleet.wait_for_end(job["id"])
    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 2, 0), done
    second.join(20)
    assert not second.is_alive(), "the stream did not end with the job"
    seen = [event["id"] for event in first.events + second.events]
    assert seen == list(range(1, len(list(fleet.client.events(job["id"], 0))) + 1))


def _readiness_until_gone(service: Deployment) -> list[int]:
    codes = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            codes.append(httpx.get(f"{service.url}/readyz", timeout=10).status_code)
        except httpx.TransportError:
            return codes
    raise AssertionError(f"it still answers: {codes[-5:]}")
