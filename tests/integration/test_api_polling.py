"""What polling costs: nothing is sent again that the client has, and a request can wait for a change."""

import threading
import time
from dataclasses import replace

import httpx
import pytest
from attempts import PERMANENT, POLICY, RETRYABLE
from deployment import Deployment
from hand_worker import claim
from refusals import refusal
from tiny import spec

from app import auth
from app.db import Database
from app.jobs import events, lifecycle


def post(http: httpx.Client) -> str:
    return str(http.post("/v1/jobs", json=spec(resources={"gpus": 1})).json()["id"])


@pytest.mark.parametrize("path", ["/v1/jobs/{job}", "/v1/jobs", "/v1/jobs/{job}/events", "/v1/jobs/{job}/metrics"])
def test_what_has_not_changed_is_not_sent_again(http: httpx.Client, service: Deployment, path: str) -> None:
    job = post(http)
    database, lease = claim(service, job)
    address = path.format(job=job)
    first = http.get(address)
    known = {"if-none-match": f'"other", {first.headers["etag"]}'}
    time.sleep(0.01)
    again = http.get(address, headers=known)
    # The seconds that a job runs count on, and are no change.
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    with database.write() as session:
        metric = events.reported("metric", {"step": 1, "epoch": 0.5, "values": {"loss": 0.25}})
        lifecycle.record(session, lease, [metric], phase="training")
    database.close()
    changed = http.get(address, headers=known)
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


def test_a_page_that_is_followed_by_another_is_a_change(http: httpx.Client) -> None:
    jobs = [post(http) for _ in range(2)]
    http.post(f"/v1/jobs/{jobs[0]}/pause")
    query = {"status": "queued", "limit": 1}
    last = http.get("/v1/jobs", params=query)
    assert last.json()["has_more"] is False
    http.post(f"/v1/jobs/{jobs[0]}/resume")
    more = http.get("/v1/jobs", params=query, headers={"if-none-match": last.headers["etag"]})
    assert (more.status_code, more.json()["has_more"]) == (200, True)


def test_a_countdown_to_the_next_attempt_is_no_change(http: httpx.Client, service: Deployment) -> None:
    job = post(http)
    database, lease = claim(service, job)
    with database.write() as session:
        lifecycle.conclude(session, lease, RETRYABLE, replace(POLICY, backoff_seconds=60))
    database.close()
    first = http.get(f"/v1/jobs/{job}")
    time.sleep(1.5)
    again = http.get(f"/v1/jobs/{job}")
    assert first.json()["waiting_for"] != again.json()["waiting_for"]
    assert first.headers["etag"] == again.headers["etag"]


def test_a_request_waits_for_the_next_change_of_a_job(http: httpx.Client, service: Deployment) -> None:
    job = post(http)
    database, lease = claim(service, job)

    def fail() -> None:
        time.sleep(1)
        with database.write() as session:
            lifecycle.conclude(session, lease, PERMANENT, POLICY)

    worker = threading.Thread(target=fail)
    worker.start()
    began = time.monotonic()
    assert http.get(f"/v1/jobs/{job}", params={"wait": 60}).json()["status"] == "failed"
    assert time.monotonic() - began >= 0.9
    worker.join()
    database.close()
    ended = http.get(f"/v1/jobs/{job}", params={"wait": 60})
    known = {"if-none-match": ended.headers["etag"]}
    assert http.get(f"/v1/jobs/{job}", params={"wait": 60}, headers=known).status_code == 304
    # None of them waited: a job that has ended does not change.
    assert time.monotonic() - began < 50


def test_a_wait_that_sees_no_change_ends_with_the_job_as_it_is(http: httpx.Client, service: Deployment) -> None:
    job = post(http)
    database, _ = claim(service, job)
    database.close()
    tag = http.get(f"/v1/jobs/{job}").headers["etag"]
    assert http.get(f"/v1/jobs/{job}", params={"wait": 0.2}, headers={"if-none-match": tag}).status_code == 304
    # The client does not know how the job is now, so it need not wait.
    assert http.get(f"/v1/jobs/{job}", params={"wait": 60}, headers={"if-none-match": '"older"'}).status_code == 200
    assert refusal(http.get(f"/v1/jobs/{job}", params={"wait": 61}), 422)["param"] == "wait"


def test_a_revoked_key_is_refused_within_a_second(service: Deployment) -> None:
    database = Database(service.database_url)
    with database.write() as session:
        key = auth.create_key(session, auth.ensure_project(session, "default").id, "brief")
    with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}) as client:
        assert client.get("/v1/jobs").status_code == 200
        with database.write() as session:
            auth.revoke(session, f"key_{key.split('_')[1]}")
        database.close()
        time.sleep(1)
        refusal(client.get("/v1/jobs"), 401, "invalid_api_key")
