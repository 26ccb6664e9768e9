"""What a training process writes reaches the database once and in order."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from attempts import POLICY, RELEASED
from outages import away
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app import auth
from app.db import Database
from app.identifiers import new_id
from app.jobs import lifecycle, text_output
from app.jobs.lifecycle import Lease, LostLease
from app.jobs.tables import Event, Job
from worker import relay as relay_module
from worker.relay import Relay


@pytest.fixture
def lease(database: Database) -> Lease:
    spec: dict[str, Any] = {
        "task": {"type": "text-classification"},
        "model": "local:x",
        "data": {"train": {"rows": [{"text": "a", "label": "b"}]}},
    }
    with database.write() as session:
        project = auth.ensure_project(session, "default").id
        job = Job(
            id=new_id("job"),
            project_id=project,
            task="t",
            user_metadata={},
            priority=0,
            queue="cpu",
            spec=spec,
            timeout_seconds=3600,
            body_sha256="0" * 64,
        )
        lifecycle.submit(session, job)
    with database.write() as session:
        claimed = lifecycle.claim(session, "w", ("cpu",), 60)
    assert claimed is not None
    return Lease(claimed.id, claimed.attempt, "w")


def write(path: Path, *records: dict[str, Any], torn: str = "") -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records) + torn)


def events_of(database: Database, lease: Lease) -> list[tuple[str, dict[str, Any]]]:
    with database.read() as session:
        rows = session.scalars(select(Event).where(Event.job_id == lease.job_id, Event.seq > 2).order_by(Event.seq))
        return [(event.type, event.data) for event in rows]


def test_records_become_events_and_columns_and_a_torn_line_waits(
    database: Database, lease: Lease, tmp_path: Path
) -> None:
    seen: list[str] = []
    reports, output = tmp_path / "reports.jsonl", tmp_path / "output.log"
    relay = Relay(database, lease, reports, output, lambda record: seen.append(record["type"]))
    relay.forward()
    metric = {"type": "metric", "time": 1.0, "step": 1, "epoch": 0.1, "values": {"loss": 2.0}}
    write(reports, {"type": "phase", "time": 1.0, "phase": "training"}, metric, torn='{"type": "no')
    output.write_text("one\ntwo\n")
    assert relay.forward()
    write(reports, torn='te", "time": 2.0, "message": "hello"}\n')
    write(reports, {"type": "result", "time": 3.0, "status": "succeeded", "step": 1})
    assert relay.forward()
    assert relay.forward()
    assert [kind for kind, _ in events_of(database, lease)] == ["phase", "metric", "note"]
    assert events_of(database, lease)[1][1] == {"step": 1, "epoch": 0.1, "values": {"loss": 2.0}}
    assert seen == ["phase", "metric", "note", "result"]
    assert relay.result is not None
    assert relay.log_tail() == "one\ntwo"
    with database.read() as session:
        assert session.get_one(Job, lease.job_id).phase == "training"
        assert text_output.tail(session, lease.job_id, attempt=None, limit=100)[:2] == (1, "one\ntwo\n")
        assert text_output.tail(session, lease.job_id, attempt=1, limit=4)[:2] == (1, "two\n")


def test_what_an_earlier_attempt_found_out_stays_beside_what_this_one_does(
    database: Database, lease: Lease, tmp_path: Path
) -> None:
    for attempt, found in enumerate(({"data": 1, "steps": 2}, {"data": 3})):
        reports = tmp_path / f"reports-{attempt}.jsonl"
        write(reports, {"type": "preflight", "time": 1.0, "preflight": found})
        assert Relay(database, lease, reports, tmp_path / "output.log", lambda _: None).forward()
        # The next attempt's file begins anew.
        with database.write() as session:
            session.get_one(Job, lease.job_id).reports_read = 0
    with database.read() as session:
        assert session.get_one(Job, lease.job_id).preflight == {"data": 3, "steps": 2}
    assert events_of(database, lease) == []


def test_a_record_longer_than_a_batch_and_output_without_line_ends_arrive_whole(
    database: Database, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "BATCH_BYTES", 100)
    reports, output = tmp_path / "reports.jsonl", tmp_path / "output.log"
    relay = Relay(database, lease, reports, output, lambda _: None)
    write(reports, {"type": "note", "time": 1.0, "message": "x" * 1000}, {"type": "note", "time": 1.0, "message": "y"})
    output.write_text("z" * 950)
    assert relay.forward()
    assert [data["message"] for _, data in events_of(database, lease)] == ["x" * 1000, "y"]
    with database.read() as session:
        assert text_output.tail(session, lease.job_id, attempt=None, limit=5000)[1] == "z" * 950


def test_while_the_database_is_away_reports_wait_and_then_arrive_once(
    database: Database, lease: Lease, tmp_path: Path
) -> None:
    reports = tmp_path / "reports.jsonl"
    relay = Relay(database, lease, reports, tmp_path / "output.log", lambda _: None)
    write(reports, {"type": "note", "time": 1.0, "message": "first"})
    with away(database):
        assert not relay.forward()
    write(reports, {"type": "note", "time": 2.0, "message": "second"})
    assert relay.forward()
    assert [data["message"] for _, data in events_of(database, lease)] == ["first", "second"]


class AnswersLost:
    """A database whose commits take effect, while the answers to the next few are lost."""

    def __init__(self, database: Database, count: int) -> None:
        self._database, self.count = database, count

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self._database.write() as session:
            yield session
        if self.count:
            self.count -= 1
            raise OperationalError("COMMIT", None, ConnectionError("the answer was lost"))


def test_a_commit_whose_answer_was_lost_is_not_made_twice_though_more_has_come(
    database: Database, lease: Lease, tmp_path: Path
) -> None:
    reports, output = tmp_path / "reports.jsonl", tmp_path / "output.log"
    lossy = AnswersLost(database, 1)
    relay = Relay(cast("Database", lossy), lease, reports, output, lambda _: None)
    write(reports, {"type": "note", "time": 1, "message": "one"})
    assert not relay.forward()
    write(reports, {"type": "note", "time": 2, "message": "two"})
    assert relay.forward()
    assert [data["message"] for _, data in events_of(database, lease)] == ["one", "two"]
    output.write_text("a line\n")
    lossy.count = 1
    assert not relay.forward()
    output.write_text("a line\nand another\n")
    assert relay.forward()
    with database.read() as session:
        assert text_output.tail(session, lease.job_id, attempt=1, limit=100)[1] == "a line\nand another\n"


def test_a_lost_lease_stops_the_relay(database: Database, lease: Lease, tmp_path: Path) -> None:
    reports = tmp_path / "reports.jsonl"
    relay = Relay(database, lease, reports, tmp_path / "output.log", lambda _: None)
    with database.write() as session:
        lifecycle.conclude(session, lease, RELEASED, POLICY)
    write(reports, {"type": "note", "time": 1.0, "message": "late"})
    with pytest.raises(LostLease):
        relay.forward()
    assert "late" not in str(events_of(database, lease))


def test_half_a_line_at_the_end_and_lines_that_are_no_json_stop_nothing(
    database: Database, lease: Lease, tmp_path: Path
) -> None:
    reports = tmp_path / "reports.jsonl"
    relay = Relay(database, lease, reports, tmp_path / "output.log", lambda _: None)
    reports.write_text('{"type": "note", "ti{"type": "phase"}\n')
    write(reports, {"type": "note", "time": 1.0, "message": "whole"}, torn='{"type": "met')
    assert relay.forward()
    assert [data["message"] for _, data in events_of(database, lease)] == ["whole"]


def test_text_that_a_database_cannot_hold_arrives_with_a_mark_in_its_place(
    database: Database, lease: Lease, tmp_path: Path
) -> None:
    reports, output = tmp_path / "reports.jsonl", tmp_path / "output.log"
    relay = Relay(database, lease, reports, output, lambda _: None)
    write(reports, {"type": "note", "time": 1.0, "message": "a\0b\ud800c"})
    write(reports, {"type": "resolved", "time": 1.0, "resolved": {"labels": ["x\0y"]}})
    output.write_bytes(b"out\0put\xff\n")
    assert relay.forward()
    assert events_of(database, lease)[0][1]["message"] == "a\ufffdb?c"
    with database.read() as session:
        assert session.get_one(Job, lease.job_id).resolved == {"labels": ["x\ufffdy"]}
