"""Making, looking at and deleting webhooks."""

from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import httpx
import pytest
from receiver import subscribe
from refusals import refusal

from app.jobs.states import JobStatus
from app.webhooks.spec import EventType

URL = "http://127.0.0.1:9/hook"


def test_every_status_can_be_subscribed_to() -> None:
    assert set(get_args(EventType)) == {f"job.{status}" for status in JobStatus}


def test_the_secret_is_shown_once(hooks: httpx.Client) -> None:
    made = subscribe(hooks, URL)
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert subscribe(hooks, URL)["secret"] != secret
    for path in ("/v1/webhooks", f"/v1/webhooks/{made['id']}"):
        answer = hooks.get(path)
        assert "secret" not in answer.text
        assert secret not in answer.text
    assert hooks.get(f"/v1/webhooks/{made['id']}").json() == made
    assert made | {"id": "", "created_at": ""} == {
        "id": "",
        "object": "webhook",
        "url": URL,
        "events": ["job.succeeded", "job.failed", "job.cancelled"],
        "enabled": True,
        "last_delivery": None,
        "consecutive_failures": 0,
        "given_up": 0,
        "created_at": "",
    }


def test_webhooks_are_listed_newest_first_and_deleted(hooks: httpx.Client) -> None:
    first, second = (subscribe(hooks, URL, events=["job.paused"]) for _ in range(2))
    listed = hooks.get("/v1/webhooks").json()
    assert [item["id"] for item in listed["data"]] == [second["id"], first["id"]]
    assert listed["has_more"] is False
    gone = hooks.delete(f"/v1/webhooks/{first['id']}").json()
    assert gone == {"id": first["id"], "object": "webhook", "deleted": True}
    assert [item["id"] for item in hooks.get("/v1/webhooks").json()["data"]] == [second["id"]]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/test")):
        refusal(hooks.request(method, f"/v1/webhooks/{first['id']}{path}"), 404, "webhook_not_found")


def test_another_projects_webhooks_do_not_exist(http: httpx.Client, stranger: httpx.Client) -> None:
    # One that this service may send to: its address is public, and nothing is sent.
    made = subscribe(http, "https://8.8.8.8/hook")
    assert stranger.get("/v1/webhooks").json()["data"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/test")):
        refusal(stranger.request(method, f"/v1/webhooks/{made['id']}{path}"), 404, "webhook_not_found")
    assert http.get(f"/v1/webhooks/{made['id']}").json()["url"] == "https://8.8.8.8/hook"


def test_a_project_has_at_most_twenty_even_when_they_are_made_at_once(hooks: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: hooks.post("/v1/webhooks", json={"url": URL}), range(26)))
    assert sorted(answer.status_code for answer in answers) == [201] * 20 + [409] * 6
    refused = next(answer for answer in answers if answer.status_code == 409)
    refusal(refused, 409, "too_many_webhooks")
    hooks.delete(f"/v1/webhooks/{hooks.get('/v1/webhooks').json()['data'][0]['id']}")
    subscribe(hooks, URL)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "url", "missing"),
        ({"url": URL, "secret": "x"}, "secret", "unknown_field"),
        ({"url": URL, "event": ["job.failed"]}, "event", "unknown_field"),
        ({"url": URL, "events": []}, "events", "too_short"),
        ({"url": URL, "events": ["job.exploded"]}, "events[0]", "literal_error"),
        ({"url": URL, "events": ["webhook.test"]}, "events[0]", "literal_error"),
        ({"url": URL, "events": ["job.failed", "job.failed"]}, "events", "value_error"),
        ({"url": 5}, "url", "string_type"),
        ({"url": "https://h/" + "x" * 2048}, "url", "string_too_long"),
        ({"url": "ftp://127.0.0.1/"}, "url", "invalid_url"),
        ({"url": "file:///etc/passwd"}, "url", "invalid_url"),
        ({"url": "127.0.0.1/hook"}, "url", "invalid_url"),
        ({"url": "https:///hook"}, "url", "invalid_url"),
        ({"url": "https://127.0.0.1/\r\nx: y"}, "url", "invalid_url"),
        ({"url": "https://user@127.0.0.1/"}, "url", "invalid_url"),
        ({"url": "https://user:word@127.0.0.1/"}, "url", "invalid_url"),
        ({"url": "https://127.0.0.1\\@127.0.0.1/"}, "url", "invalid_url"),
        ({"url": "https://127.0.0.1/#part"}, "url", "invalid_url"),
        ({"url": "https://127.0.0.1:0/"}, "url", "invalid_url"),
        ({"url": "https://127.0.0.1:65536/"}, "url", "invalid_url"),
        ({"url": "https://[::1/"}, "url", "invalid_url"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_by_name(
    hooks: httpx.Client, body: dict[str, object], param: str, code: str
) -> None:
    assert refusal(hooks.post("/v1/webhooks", json=body), 422, code)["param"] == param
