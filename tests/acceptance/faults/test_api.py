"""An API that dies between the commit and its answer: the client asks again, and there is one job."""

import json
import signal
import socket
import time

import httpx
import pytest
from deployment import Deployment
from tiny import spec


@pytest.mark.parametrize(
    "again", [{"idempotency-key": "one"}, {"x-stainless-retry-count": "1"}], ids=["key", "openai client"]
)
def test_a_create_whose_answer_was_lost_is_safe_to_repeat(service: Deployment, again: dict[str, str]) -> None:
    api = service.start_api()
    first = {**again, "x-stainless-retry-count": "0"}
    body = json.dumps(spec()).encode()
    with _posted_and_not_read(service, body, first):
        deadline = time.monotonic() + 30
        while not (jobs := service.client.get("/v1/jobs")["data"]):
            assert time.monotonic() < deadline, "the job was never committed"
            time.sleep(0.01)
        api.stop(signal.SIGKILL)
    service.start_api()
    headers = {**again, "content-type": "application/json"}
    repeated = service.http.post("/v1/jobs", content=body, headers=headers)
    assert (repeated.status_code, repeated.json()["id"]) == (200, jobs[0]["id"]), repeated.text
    assert len(service.client.get("/v1/jobs")["data"]) == 1


def _posted_and_not_read(service: Deployment, body: bytes, headers: dict[str, str]) -> socket.socket:
    url = httpx.URL(service.url)
    connection = socket.create_connection((url.host, url.port or 80))
    lines = [
        "POST /v1/jobs HTTP/1.1",
        f"host: {url.host}",
        f"authorization: Bearer {service.key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection
