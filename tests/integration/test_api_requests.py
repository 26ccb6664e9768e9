"""Pause, resume, retry, and the retries of a client that knows no idempotency key."""

from uuid import uuid4

import httpx
from attempts import PAUSED, PERMANENT, POLICY
from deployment import Deployment
from hand_worker import checkpoint, claim
from refusals import refusal
from tiny import spec

from app.jobs import lifecycle

GPU = {"resources": {"gpus": 1}}
"""No worker of the tests takes these."""


def post(http: httpx.Client, **parts: object) -> str:
    return str(http.post("/v1/jobs", json=spec(**{**GPU, **parts})).json()["id"])


def test_a_queued_job_pauses_at_once_and_resumes(http: httpx.Client) -> None:
    job = post(http)
    paused = http.post(f"/v1/jobs/{job}/pause").json()
    assert (paused["status"], paused["queue_position"], paused["waiting_for"]) == ("paused", None, None)
    assert http.post(f"/v1/jobs/{job}/pause").json()["status"] == "paused"
    resumed = http.post(f"/v1/jobs/{job}/resume").json()
    assert (resumed["status"], resumed["waiting_for"]) == ("queued", "no worker is alive")
    refusal(http.post(f"/v1/jobs/{job}/resume"), 409, "wrong_state")
    http.post(f"/v1/jobs/{job}/pause")
    assert http.post(f"/v1/jobs/{job}/cancel").json()["status"] == "cancelled"
    refusal(http.post(f"/v1/jobs/{job}/pause"), 409, "job_ended")
    refusal(http.post(f"/v1/jobs/{job}/resume"), 409, "job_ended")


def test_a_running_job_is_asked_to_pause(http: httpx.Client, service: Deployment) -> None:
    job = post(http)
    database, lease = claim(service, job)
    asked = http.post(f"/v1/jobs/{job}/pause").json()
    assert (asked["status"], asked["pause_requested"]) == ("running", True)
    with database.write() as session:
        lifecycle.conclude(session, lease, PAUSED, POLICY)
    database.close()
    found = http.get(f"/v1/jobs/{job}").json()
    assert (found["status"], found["pause_requested"]) == ("paused", False)
    assert http.get("/v1/jobs?status=paused").json()["data"][0]["id"] == job


def test_a_job_that_has_ended_is_retried_from_the_start_or_from_a_checkpoint(
    http: httpx.Client, service: Deployment
) -> None:
    job = post(http, name="first")
    refusal(http.post(f"/v1/jobs/{job}/retry"), 409, "job_not_ended")
    database, lease = claim(service, job)
    with database.write() as session:
        for step in (10, 20):
            lifecycle.checkpoint(session, lease, checkpoint(lease, step), None)
        lifecycle.conclude(session, lease, PERMANENT, POLICY)
    database.close()

    anew = http.post(f"/v1/jobs/{job}/retry")
    assert anew.status_code == 201
    assert (anew.json()["parent_id"], anew.json()["name"], anew.json()["attempt"]) == (job, "first", 0)
    assert anew.json()["spec"] == http.get(f"/v1/jobs/{job}").json()["spec"]
    first = http.get(f"/v1/jobs/{anew.json()['id']}/events").json()["data"][0]
    assert first["data"]["parent"] == job
    for start in (10, "latest"):
        assert http.post(f"/v1/jobs/{job}/retry", json={"from_checkpoint": start}).status_code == 201
    error = refusal(http.post(f"/v1/jobs/{job}/retry", json={"from_checkpoint": 15}), 422, "checkpoint_not_found")
    assert "20, 10" in error["message"]
    refusal(http.post(f"/v1/jobs/{job}/retry", json={"from": 15}), 422, "unknown_field")


def test_a_retry_of_a_job_whose_data_is_gone_is_refused(http: httpx.Client) -> None:
    dataset = http.post("/v1/datasets", files={"file": ("a.csv", b"text,label\na,b\nc,d\n")}).json()["id"]
    job = post(http, data={"train": {"dataset": dataset}, "eval": None})
    http.post(f"/v1/jobs/{job}/cancel")
    assert http.delete(f"/v1/datasets/{dataset}").status_code == 200
    refusal(http.post(f"/v1/jobs/{job}/retry"), 422, "dataset_not_found")


def test_a_client_that_sends_only_a_retry_count_gets_the_job_it_made(
    http: httpx.Client, stranger: httpx.Client
) -> None:
    body = spec(**GPU, name=uuid4().hex)
    first = http.post("/v1/jobs", json=body, headers={"x-stainless-retry-count": "0"})
    again = http.post("/v1/jobs", json=body, headers={"x-stainless-retry-count": "1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    # A second job on purpose, another body, and another project are jobs of their own.
    others = [
        http.post("/v1/jobs", json=body, headers={"x-stainless-retry-count": "0"}),
        http.post("/v1/jobs", json={**body, "name": "other"}, headers={"x-stainless-retry-count": "1"}),
        stranger.post("/v1/jobs", json=body, headers={"x-stainless-retry-count": "1"}),
    ]
    assert {other.status_code for other in others} == {201}
    assert len({first.json()["id"], *(other.json()["id"] for other in others)}) == 4
