"""A database that does not answer for a moment costs no attempt before its training has begun."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.jobs.lifecycle import LostLease
from worker import run_job

JOB: Any = SimpleNamespace(id="job_1")
AWAY = OperationalError("SELECT", {}, Exception("the server closed the connection"))


class Preparing:
    """A `prepare` that leaves files behind and fails so many times."""

    def __init__(self, failures: int) -> None:
        self.left, self.calls = failures, 0

    def __call__(self, context: Any, job: Any, folder: Path, gpu: str | None) -> str:
        self.calls += 1
        (folder / "out").mkdir()
        (folder / "request.json").write_text("{}")
        if self.left:
            self.left -= 1
            raise AWAY
        return "prepared"


def prepared(preparing: Preparing, folder: Path, monkeypatch: pytest.MonkeyPatch, **events: threading.Event) -> Any:
    monkeypatch.setattr(run_job, "prepare", preparing)
    monkeypatch.setattr(run_job, "PREPARE_RETRY_SECONDS", 0.01)
    context: Any = SimpleNamespace(stopping=events.get("stopping", threading.Event()))
    heartbeat: Any = SimpleNamespace(lost=events.get("lost", threading.Event()))
    return run_job._prepared(context, JOB, heartbeat, folder, None)  # noqa: SLF001 - the rest needs a whole worker


def is_set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def test_it_is_tried_again_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparing = Preparing(2)
    assert prepared(preparing, tmp_path, monkeypatch) == "prepared"
    assert preparing.calls == 3


def test_a_lost_lease_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LostLease):
        prepared(Preparing(2), tmp_path, monkeypatch, lost=is_set())


def test_a_worker_that_stops_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperationalError):
        prepared(Preparing(2), tmp_path, monkeypatch, stopping=is_set())
