"""What receivers get: every status event they asked for, signed, in order, and nothing else."""

import base64
import hmac
import json
import threading
from hashlib import sha256

import httpx
from attempts import POLICY, RETRYABLE
from deployment import Deployment
from hand_worker import claim
from receiver import Receiver, cancelled, post, receiver, subscribe, wait_for
from servers import free_port
from standardwebhooks import Webhook

from app.failures import Failure, FailureCode
from app.jobs import lifecycle
from app.jobs.outcomes import Failed

ALL = ["job.queued", "job.running", "job.paused", "job.succeeded", "job.failed", "job.cancelled"]
FAILURE = Failure.of(FailureCode.BAD_ROWS, "it went wrong", "do better", details={"row": 1}, log_tail="a secret line")


def test_the_end_of_a_job_is_reported_and_signed_so_that_the_library_verifies_it(
    hooks: httpx.Client, hooked: Deployment
) -> None:
    with receiver() as target:
        secret = subscribe(hooks, target.url)["secret"]
        job = post(hooks, name="Prüfung", metadata={"team": "ä"})
        database, lease = claim(hooked, job)
        with database.write() as session:
            lifecycle.conclude(session, lease, Failed(FAILURE), POLICY)
        database.close()
        (got,) = target.wait(1)
    event = Webhook(secret).verify(got.body, got.headers)
    log = hooks.get(f"/v1/jobs/{job}/events").json()["data"][-1]
    assert event == {
        "type": "job.failed",
        "timestamp": log["created_at"],
        "data": {
            "id": job,
            "object": "job",
            "status": "failed",
            "attempt": 1,
            "event_id": log["id"],
            "name": "Prüfung",
            "metadata": {"team": "ä"},
            "error": {"code": "bad_rows", "message": "it went wrong", "hint": "do better"},
        },
    }
    # As the specification says it, without the library.
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert len(key) == 32
    signed = f"{got.id}.{got.headers['webhook-timestamp']}.".encode() + got.body
    expected = base64.b64encode(hmac.digest(key, signed, sha256)).decode()
    assert got.headers["webhook-signature"] == f"v1,{expected}"
    assert (got.path, got.headers["content-type"]) == ("/hook", "application/json")
    assert "." not in got.id


def test_events_come_in_order_and_one_that_was_answered_500_comes_again_before_the_rest(
    hooks: httpx.Client, hooked: Deployment
) -> None:
    answers = iter([500])
    with receiver(lambda _: next(answers, 200)) as target:
        made = subscribe(hooks, target.url, events=ALL)
        job = post(hooks)
        database, lease = claim(hooked, job)
        with database.write() as session:
            lifecycle.conclude(session, lease, RETRYABLE, POLICY)
        database.close()
        hooks.post(f"/v1/jobs/{job}/pause")
        hooks.post(f"/v1/jobs/{job}/cancel")
        got = target.wait(6)
    log = hooks.get(f"/v1/jobs/{job}/events", params={"type": "status"}).json()["data"]
    reported = [(f"job.{event['data']['to']}", event["id"]) for event in log]
    assert [kind for kind, _ in reported] == ["job.queued", "job.running", "job.queued", "job.paused", "job.cancelled"]
    assert target.events() == [reported[0], *reported]
    first, again, *rest = got
    assert (first.id, first.body) == (again.id, again.body)
    assert len({item.id for item in [again, *rest]}) == 5
    seen = hooks.get(f"/v1/webhooks/{made['id']}").json()
    assert (seen["last_delivery"]["status_code"], seen["last_delivery"]["error"]) == (200, None)
    assert (seen["consecutive_failures"], seen["given_up"]) == (0, 0)


def test_a_receiver_that_is_down_gets_its_events_once_it_is_up(hooks: httpx.Client) -> None:
    port = free_port()
    made = subscribe(hooks, f"http://127.0.0.1:{port}/hook")
    job = cancelled(hooks)
    path = f"/v1/webhooks/{made['id']}"
    wait_for(lambda: hooks.get(path).json()["consecutive_failures"], 30)
    failed = hooks.get(path).json()["last_delivery"]
    assert failed["status_code"] is None
    assert failed["error"].startswith("the connection failed")
    with receiver(port=port) as target:
        (got,) = target.wait(1)
        assert got.event["data"]["id"] == job
        wait_for(lambda: hooks.get(path).json()["consecutive_failures"] == 0, 10)


def test_410_switches_a_webhook_off(hooks: httpx.Client) -> None:
    with receiver(lambda _: 410) as gone, receiver() as other:
        made = subscribe(hooks, gone.url)
        assert made["enabled"] is True
        cancelled(hooks)
        wait_for(lambda: not hooks.get(f"/v1/webhooks/{made['id']}").json()["enabled"], 30)
        assert hooks.get(f"/v1/webhooks/{made['id']}").json()["last_delivery"]["status_code"] == 410
        subscribe(hooks, other.url)
        job = cancelled(hooks)
        (got,) = other.wait(1)
        assert got.event["data"]["id"] == job
    assert len(gone.received) == 1


def test_a_redirect_is_not_followed(hooks: httpx.Client) -> None:
    with receiver(lambda got: 307 if got.path == "/hook" else 200) as target:
        made = subscribe(hooks, target.url)
        cancelled(hooks)
        wait_for(lambda: hooks.get(f"/v1/webhooks/{made['id']}").json()["last_delivery"], 30)
        seen = hooks.get(f"/v1/webhooks/{made['id']}").json()
        assert seen["last_delivery"]["status_code"] == 307
        assert "redirects are not followed" in seen["last_delivery"]["error"]
        assert {item.path for item in target.received} == {"/hook"}


def test_a_deleted_webhook_gets_nothing_more_not_even_what_was_to_be_tried_again(hooks: httpx.Client) -> None:
    with receiver(lambda _: 500) as target, receiver(lambda _: 500) as kept:
        made = subscribe(hooks, target.url)
        subscribe(hooks, kept.url)
        cancelled(hooks)
        target.wait(1)
        kept.wait(1)
        assert hooks.delete(f"/v1/webhooks/{made['id']}").status_code == 200
        cancelled(hooks)
        # By the time the other one has had its second try of the first event, the deleted one's would have come too.
        kept.wait(3)
        wait_for(lambda: [item.id for item in kept.received].count(kept.received[0].id) > 1, 30)
    assert len(target.received) == 1


def test_a_receiver_that_does_not_answer_keeps_nobody_else_waiting(hooks: httpx.Client) -> None:
    release = threading.Event()

    def stuck(_: object) -> int:
        release.wait(60)
        return 200

    with receiver(stuck) as slow, receiver() as quick:
        subscribe(hooks, slow.url)
        subscribe(hooks, quick.url)
        jobs = {cancelled(hooks) for _ in range(8)}
        reported = {item.event["data"]["id"] for item in quick.wait(8, 30)}
        release.set()
        wait_for(lambda: {item.event["data"]["id"] for item in list(slow.received)} == jobs, 60)
    assert reported == jobs


def test_a_receiver_that_takes_longer_than_ten_seconds_is_tried_again(hooks: httpx.Client) -> None:
    release = threading.Event()
    with receiver(lambda _: 200 if release.wait(60) else 500) as slow:
        made = subscribe(hooks, slow.url)
        cancelled(hooks)
        wait_for(lambda: hooks.get(f"/v1/webhooks/{made['id']}").json()["consecutive_failures"], 30)
        last = hooks.get(f"/v1/webhooks/{made['id']}").json()["last_delivery"]
        assert (last["status_code"], last["error"]) == (None, "no answer within 10 s")
        release.set()
        first, again = slow.wait(2)
        assert first.id == again.id


def test_only_what_happens_after_it_was_made_and_in_its_own_project_reaches_a_webhook(
    hooks: httpx.Client, hooked: Deployment
) -> None:
    stranger = httpx.Client(base_url=hooked.url, headers={"authorization": f"Bearer {hooked.key}"}, timeout=60)
    with receiver() as target, stranger:
        cancelled(hooks)
        subscribe(hooks, target.url, events=["job.cancelled"])
        cancelled(stranger)
        job = cancelled(hooks)
        target.wait(1)
        later = cancelled(hooks)
        target.wait(2)
    assert [item.event["data"]["id"] for item in target.received] == [job, later]


def test_a_test_event_tells_what_came_back_and_changes_nothing(hooks: httpx.Client) -> None:
    answers = iter([200, 503, 410])
    with receiver(lambda _: next(answers)) as target:
        made = subscribe(hooks, target.url)
        path = f"/v1/webhooks/{made['id']}"
        before = hooks.get(path).json()
        reported = [hooks.post(f"{path}/test").json() for _ in range(3)]
        assert [(item["delivered"], item["status_code"]) for item in reported] == [
            (True, 200),
            (False, 503),
            (False, 410),
        ]
        assert hooks.get(path).json() == before
        _check_test_events(target, made)
    down = hooks.post(f"{path}/test").json()
    assert (down["delivered"], down["status_code"]) == (False, None)
    assert down["error"].startswith("the connection failed")


def _check_test_events(target: Receiver, made: dict[str, str]) -> None:
    for got in target.received:
        event = Webhook(made["secret"]).verify(got.body, got.headers)
        assert (event["type"], event["data"]) == ("webhook.test", {"id": made["id"], "object": "webhook"})
        assert json.loads(got.body) == event
    assert len({got.id for got in target.received}) == 3
