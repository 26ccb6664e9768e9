"""Webhooks where processes die, run side by side, or are not allowed where they are asked to go."""

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from deployment import Deployment, deployment
from receiver import Received, cancelled, receiver, subscribe, wait_for
from refusals import refusal

ALLOWED = "TUNESMITH_WEBHOOK_PRIVATE_ADDRESSES"
PRIVATE = [
    "https://127.0.0.1/hook",
    "https://localhost/hook",
    "https://localhost:8443/hook",
    "https://[::1]/hook",
    "https://[::ffff:127.0.0.1]/hook",
    "https://[64:ff9b::7f00:1]/hook",
    "https://0.0.0.0/hook",
    "https://127.1/hook",
    "https://2130706433/hook",
    "https://0x7f.0.0.1/hook",
    "https://10.1.2.3/hook",
    "https://169.254.169.254/latest/meta-data",
    "https://192.168.0.1:8000/hook",
    "https://100.64.0.1/hook",
    "https://224.0.0.1/hook",
    "https://[fd00::1]/hook",
    "https://[fe80::1]/hook",
]


def shape(folder: Path, database_url: str, **settings: str) -> Deployment:
    return deployment(folder, **{"TUNESMITH_DATABASE_URL": database_url, ALLOWED: "true", **settings})


@pytest.mark.faults
def test_kill_9_after_the_receiver_took_it_and_before_that_is_noted_sends_it_again_under_the_same_id(
    tmp_path: Path, database_url: str
) -> None:
    with shape(tmp_path / "service", database_url) as service:
        doomed = service.start_api()

        is_cancelled = threading.Event()

        def take(_: Received) -> int:
            # On a busy machine the first event may be sent before the request to cancel.
            is_cancelled.wait(8)
            doomed.stop(signal.SIGKILL)
            return 200

        with receiver(take) as target, service.http as http:
            subscribe(http, target.url, events=["job.queued", "job.cancelled"])
            job = cancelled(http)
            is_cancelled.set()
            target.wait(1)
            assert doomed.popen.wait(30) == -signal.SIGKILL
            service.start_api()
            # The claim of the dead process holds for 30 s.
            first, again, last = target.wait(3, 120)
            with service.http as fresh:
                wait_for(lambda: fresh.get("/v1/webhooks").json()["data"][0]["consecutive_failures"] == 0, 10)
    assert (first.id, first.body) == (again.id, again.body)
    assert target.events() == [("job.queued", 1), ("job.queued", 1), ("job.cancelled", 2)]
    assert last.event["data"]["id"] == job


def test_two_processes_send_each_event_once(tmp_path: Path, database_url: str) -> None:
    with shape(tmp_path / "service", database_url) as service, receiver() as target:
        service.start_api()
        service.start_api()
        with service.http as http:
            subscribe(http, target.url, events=["job.queued", "job.cancelled"])
            jobs = [cancelled(http) for _ in range(20)]
            target.wait(40)
            # What was sent twice would have come by now: both looked again after the last one.
            time.sleep(3)
    assert set(Counter(got.id for got in target.received).values()) == {1}
    for job in jobs:
        mine = [got.event["data"]["event_id"] for got in target.received if got.event["data"]["id"] == job]
        assert mine == [1, 2]


@pytest.mark.parametrize("url", PRIVATE)
def test_an_address_that_is_not_on_the_public_internet_is_refused(http: httpx.Client, url: str) -> None:
    error = refusal(http.post("/v1/webhooks", json={"url": url}), 422, "host_not_allowed")
    assert error["param"] == "url"
    assert http.get("/v1/webhooks").json()["data"] == []


def test_plain_http_is_refused_and_so_is_a_host_that_is_not_there(http: httpx.Client) -> None:
    refusal(http.post("/v1/webhooks", json={"url": "http://192.0.2.1/hook"}), 422, "https_only")
    for host in ("nobody.invalid", "a" * 70 + ".invalid", "a..invalid"):
        refusal(http.post("/v1/webhooks", json={"url": f"https://{host}/"}), 422, "host_not_allowed")


def test_an_address_is_checked_again_at_each_delivery(tmp_path: Path, database_url: str) -> None:
    with shape(tmp_path / "service", database_url) as service, receiver() as target:
        api = service.start_api()
        with service.http as http:
            made = [
                subscribe(http, url)["id"]
                for url in (
                    f"https://localhost:{target.port}/hook",
                    f"https://127.0.0.1:{target.port}/hook",
                    target.url,
                )
            ]
            api.stop()
            assert "Traceback" not in api.log
        service.settings[ALLOWED] = "false"
        service.start_api()
        with service.http as http:
            cancelled(http)
            for webhook, reason in zip(made, ("public internet", "public internet", "https://"), strict=True):
                path = f"/v1/webhooks/{webhook}"
                wait_for(lambda path=path: http.get(path).json()["consecutive_failures"], 30)
                assert reason in http.get(path).json()["last_delivery"]["error"]
                reported = http.post(f"{path}/test").json()
                assert (reported["delivered"], reported["status_code"]) == (False, None)
                assert reason in reported["error"]
    assert target.received == []
