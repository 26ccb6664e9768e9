"""Which worker may take a job of which engine, and what a job that waits for one is told."""

import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from sqlalchemy import select

from app import auth
from app.db import Database, now
from app.identifiers import new_id
from app.jobs import lifecycle, queries
from app.jobs.decision import RetryPolicy
from app.jobs.sweeper import sweep
from app.jobs.tables import Event, Job, Worker
from app.jobs.wakeup import NoWakeup

POLICY = RetryPolicy(max_failures=3, max_workers_lost=2, max_stalled=9, backoff_seconds=0)
PLAIN = ("trainer", "pytorch")


@pytest.fixture
def submit(database: Database) -> Callable[..., str]:
    def submit(engine: str, queue: str = "cpu") -> str:
        with database.write() as session:
            job = Job(
                id=new_id("job"),
                project_id=auth.ensure_project(session, "default").id,
                task="t",
                user_metadata={},
                priority=0,
                queue=queue,
                engine=engine,
                spec={},
                timeout_seconds=3600,
                body_sha256="0" * 64,
            )
            lifecycle.submit(session, job)
        return job.id

    return submit


def add_worker(database: Database, engines: str, queues: str = "cpu", age: float = 0, name: str = "") -> None:
    with database.write() as session:
        session.add(
            Worker(
                id=name or uuid4().hex,
                host="test",
                pid=1,
                version="0",
                queues=queues,
                engines=engines,
                slots=1,
                hardware={},
                last_seen_at=now() - age,
            )
        )


def claimed(database: Database, engines: tuple[str, ...], queues: tuple[str, ...] = ("cpu", "any")) -> str | None:
    with database.write() as session:
        job = lifecycle.claim(session, "w", queues, 60, engines)
    return job.id if job else None


def waiting_for(database: Database, job_id: str) -> str | None:
    with database.read() as session:
        return queries.waiting_for(session, session.get_one(Job, job_id), silent_for=60)


def notes(database: Database, job_id: str) -> list[dict[str, str]]:
    with database.read() as session:
        return list(session.scalars(select(Event.data).where(Event.job_id == job_id, Event.type == "note")))


def sweep_after(database: Database, seconds: float) -> None:
    sweep(database, POLICY, NoWakeup(), engine_seconds=seconds)


def test_a_job_is_claimed_only_by_a_worker_that_offers_its_engine(
    database: Database, submit: Callable[..., str]
) -> None:
    keras, native = submit("tensorflow"), submit("pytorch")
    assert claimed(database, PLAIN) == native
    assert claimed(database, PLAIN) is None
    assert claimed(database, (*PLAIN, "tensorflow")) == keras


def test_a_job_for_either_kind_of_machine_is_left_only_to_gpu_workers_that_offer_its_engine(
    database: Database, submit: Callable[..., str]
) -> None:
    add_worker(database, "pytorch", queues="cpu,gpu")
    left, ours = submit("pytorch", queue="any"), submit("trainer", queue="any")
    assert claimed(database, PLAIN) == ours
    assert claimed(database, PLAIN) is None
    assert claimed(database, PLAIN, ("cpu", "gpu", "any")) == left


def test_a_job_says_that_no_live_worker_offers_its_engine_until_one_does(
    database: Database, submit: Callable[..., str]
) -> None:
    job_id = submit("tensorflow")
    assert waiting_for(database, job_id) == "no worker is alive"
    add_worker(database, "trainer,pytorch")
    add_worker(database, "trainer,pytorch,tensorflow", age=3600)
    assert waiting_for(database, job_id) == "no live worker offers the engine tensorflow"
    add_worker(database, "trainer,tensorflow")
    assert waiting_for(database, job_id) == "a worker is about to take it"


def test_a_job_says_that_slots_are_busy_only_of_workers_that_can_take_it(
    database: Database, submit: Callable[..., str]
) -> None:
    submit("trainer", queue="gpu")
    claimed(database, PLAIN, ("gpu",))
    add_worker(database, "trainer", queues="gpu", name="w")
    for_cpu, for_gpu, for_either = (submit("trainer", queue=queue) for queue in ("cpu", "gpu", "any"))
    busy = "all 1 slots of the 1 live workers that can run it are busy"
    assert waiting_for(database, for_cpu) == "all live workers run only jobs that need a GPU"
    assert (waiting_for(database, for_gpu), waiting_for(database, for_either)) == (busy, busy)
    add_worker(database, "trainer")
    assert waiting_for(database, for_cpu) == "a worker is about to take it"
    assert (waiting_for(database, for_gpu), waiting_for(database, for_either)) == (busy, busy)


def test_after_a_while_its_log_says_so_too_once(database: Database, submit: Callable[..., str]) -> None:
    waits, served = submit("tensorflow"), submit("pytorch")
    add_worker(database, "trainer,pytorch")
    sweep_after(database, 3600)
    assert notes(database, waits) == []
    # The worker must be heard of within the time, and both jobs have waited longer than it.
    time.sleep(1.1)
    add_worker(database, "pytorch")
    for _ in range(2):
        sweep_after(database, 1)
    (told,) = notes(database, waits)
    assert "no live worker has offered the engine tensorflow" in told["message"]
    assert notes(database, served) == []


def test_a_note_is_not_written_twice_nor_where_something_else_has_happened(
    database: Database, submit: Callable[..., str]
) -> None:
    job_id = submit("tensorflow")
    told = []
    for _ in range(2):
        with database.write() as session:
            told.append(lifecycle.note(session, job_id, 1, "x", "tensorflow"))
    assert told == [True, False]
    assert claimed(database, ("tensorflow",)) == job_id
    with database.write() as session:
        assert not lifecycle.note(session, job_id, 3, "y", "tensorflow")
    assert notes(database, job_id) == [{"message": "x", "engine": "tensorflow"}]
