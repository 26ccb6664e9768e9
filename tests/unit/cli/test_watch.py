from collections.abc import Callable
from typing import Any

import pytest

JOB, EVENTS = "/v1/jobs/job_x", "/v1/jobs/job_x/events"
DONE: dict[str, Any] = {
    "id": "job_x",
    "status": "succeeded",
    "phase": None,
    "progress": {"step": 3, "of": 3},
    "metrics": {"eval_accuracy": 1.0},
    "error": None,
}
AWAY = (503, {"error": {"message": "the database does not answer", "code": "unavailable"}})


def page(*events: dict[str, Any]) -> dict[str, Any]:
    return {"data": list(events), "has_more": False}


def note(number: int, message: str) -> dict[str, Any]:
    return {"id": number, "type": "note", "attempt": 1, "data": {"message": message}}


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.watch.POLL_SECONDS", 0.01)
    monkeypatch.setattr("app.watch.FIRST_WAIT_SECONDS", 0.01)


def test_a_service_that_is_away_for_a_while_is_waited_for(service: Any, tunesmith: Callable[..., Any]) -> None:
    running = (200, {**DONE, "status": "running"})
    service.answers[JOB] = [AWAY, (502, b"bad gateway"), AWAY, running, running, AWAY, (200, DONE)]
    service.answers[EVENTS] = [(200, page(note(1, "one"))), AWAY, (200, page(note(2, "two"))), (200, page())]
    ended = tunesmith("watch", "job_x")
    assert ended.code == 0, ended
    assert ended.out.count("the service is unreachable") == 2
    assert ended.out.count("the service answers again") == 2
    assert [line.strip() for line in ended.out.splitlines() if line.endswith((" one", " two"))] == ["1 one", "2 two"]
    assert "succeeded: eval_accuracy 1" in ended.out


def test_the_end_tells_how_long_a_job_waited_and_ran(service: Any, tunesmith: Callable[..., Any]) -> None:
    used = {"queued_seconds": 61.4, "running_seconds": 3600.2, "gpu_seconds": 3500.0}
    service.answers[EVENTS] = [(200, page())]
    service.answers[JOB] = [(200, {**DONE, **used})]
    assert "waited 61 s, ran 3600 s, 3500 GPU-seconds" in tunesmith("watch", "job_x").out
    service.answers[JOB] = [(200, {**DONE, **used, "gpu_seconds": 0.0})]
    assert "GPU" not in tunesmith("watch", "job_x").out


def test_patience_has_an_end(service: Any, tunesmith: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.watch.PATIENCE_SECONDS", 0.2)
    service.answers[JOB] = [AWAY]
    ended = tunesmith("watch", "job_x")
    assert ended.code == 2
    assert ended.out.count("the service is unreachable") == 1
    assert "the database does not answer" in ended.err
    assert len(service.asked) > 3


def test_a_refusal_is_no_outage(service: Any, tunesmith: Callable[..., Any]) -> None:
    service.answers[JOB] = [(404, {"error": {"message": "no such job", "code": "not_found"}})]
    ended = tunesmith("watch", "job_x")
    assert ended.code == 2
    assert "away" not in ended.out
    assert service.asked == [JOB]


@pytest.mark.parametrize("name", ["[/INST]", "run [/x]", "[red]", ":warning:", "a\\[b]"])
def test_names_are_shown_as_they_are(service: Any, tunesmith: Callable[..., Any], name: str) -> None:
    events = [
        note(1, f"classes: {name}, b"),
        {"id": 2, "type": "status", "attempt": 1, "data": {"from": "running", "to": "queued", "reason": name}},
        {"id": 3, "type": "metric", "attempt": 1, "data": {"step": 3, "values": {f"eval_{name}": 0.5}}},
    ]
    service.answers[JOB] = [(200, {**DONE, "phase": name, "name": name, "created_at": "now"})]
    service.answers[EVENTS] = [(200, page(*events))]
    shown = tunesmith("watch", "job_x").out
    assert f"    1 classes: {name}, b\n" in shown
    assert f"    2 queued ({name})\n" in shown
    assert f"    3 step 3: eval_{name} 0.5\n" in shown
    listed = {**DONE, "name": name, "created_at": "now", "metrics": {name: 1.0}}
    service.answers["/v1/jobs"] = [(200, {"data": [listed]})]
    assert f"│ {name} " in tunesmith("jobs").out
    service.answers["/v1/datasets"] = [
        (200, {"data": [{"id": "ds_x", "name": name, "filename": "a", "files": [{}], "rows": 1, "created_at": "now"}]})
    ]
    assert f"│ {name} " in tunesmith("datasets", "list").out
