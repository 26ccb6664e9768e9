"""The event log as Server-Sent Events: nothing missed, nothing twice."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from attempts import PERMANENT, POLICY
from deployment import Deployment, Process, deployment
from hand_worker import claim
from refusals import refusal
from tiny import spec

from app.jobs import events, lifecycle

ACCEPT = {"accept": "text/event-stream"}


def post(http: httpx.Client) -> str:
    return str(http.post("/v1/jobs", json=spec(resources={"gpus": 1})).json()["id"])


def frames(response: httpx.Response) -> Iterator[dict[str, Any]]:
    frame: dict[str, Any] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if not line and frame:
            yield frame
            frame = {}
        elif name in ("id", "event", "data"):
            frame[name] = json.loads(value) if name == "data" else value


def test_a_head_of_the_stream_ends_at_once(http: httpx.Client) -> None:
    answer = http.head(f"/v1/jobs/{post(http)}/events", headers=ACCEPT, timeout=5)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_stream_follows_a_job_to_its_end_and_then_closes(http: httpx.Client, service: Deployment) -> None:
    job = post(http)
    database, lease = claim(service, job)

    def work() -> None:
        for step in range(1, 40):
            with database.write() as session:
                lifecycle.record(session, lease, [events.reported("metric", {"step": step})])
        with database.write() as session:
            lifecycle.conclude(session, lease, PERMANENT, POLICY)

    worker = threading.Thread(target=work)
    with http.stream("GET", f"/v1/jobs/{job}/events", headers=ACCEPT) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = frames(response)
        seen = [next(stream)]
        worker.start()
        seen += stream
    worker.join()
    database.close()
    assert [int(frame["id"]) for frame in seen] == list(range(1, 43))
    assert [frame["data"]["id"] for frame in seen] == list(range(1, 43))
    assert (seen[-1]["event"], seen[-1]["data"]["data"]["to"]) == ("status", "failed")
    with http.stream("GET", f"/v1/jobs/{job}/events", headers={**ACCEPT, "last-event-id": "40"}) as response:
        assert [int(frame["id"]) for frame in frames(response)] == [41, 42]
    ended = http.get(f"/v1/jobs/{job}/events", headers={**ACCEPT, "last-event-id": "42"})
    assert ended.status_code == 204


@pytest.mark.parametrize("given", ["x", "-1", "9" * 50, "\uff11"])
def test_a_last_event_id_that_is_none_is_refused(http: httpx.Client, given: str) -> None:
    job = post(http)
    headers = {**ACCEPT, "last-event-id": given.encode()}
    refusal(http.get(f"/v1/jobs/{job}/events", headers=headers), 422, "invalid_event_id")


def test_a_stream_of_another_projects_job_is_a_404(http: httpx.Client, stranger: httpx.Client) -> None:
    refusal(stranger.get(f"/v1/jobs/{post(http)}/events", headers=ACCEPT), 404, "job_not_found")


def test_sigterm_ends_open_streams_and_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    with deployment(tmp_path_factory.mktemp("stopping")) as service:
        api: Process = service.start_api()
        job = post(service.http)
        with service.http as http, http.stream("GET", f"/v1/jobs/{job}/events", headers=ACCEPT) as response:
            stream = frames(response)
            assert next(stream)["id"] == "1"
            api.popen.terminate()
            assert list(stream) == []
        assert api.popen.wait(10) == 0
