"""Which worker may take a job of which engine and features, and what a job that waits for one reports."""

import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from app import auth
from app.db import Database, now
from app.identifiers import new_id
from app.jobs import lifecycle, views, waiting
from app.jobs.decision import RetryPolicy
from app.jobs.sweeper import sweep
from app.jobs.tables import Event, Job
from app.jobs.wakeup import CommitWakeup
from app.specs.features import known_features
from app.workers.tables import Worker

POLICY = RetryPolicy(max_failures=3, max_workers_lost=2, max_stalled=9, backoff_seconds=0)
PLAIN = ("trainer", "pytorch")
PLAIN_FEATURES = ["training.engine=trainer", "training.epochs"]


@pytest.fixture
def submit(database: Database) -> Callable[..., str]:
    def submit(engine: str, queue: str = "cpu", features: list[str] | None = None) -> str:
        with database.write() as session:
            job = Job(
                id=new_id("job"),
                project_id=auth.ensure_project(session, "default").id,
                task="t",
                user_metadata={},
                priority=0,
                queue=queue,
                engine=engine,
                features=features,
                spec={},
                timeout_seconds=3600,
                body_sha256="0" * 64,
            )
            lifecycle.submit(session, job)
        return job.id

    return submit


def add_worker(
    database: Database,
    engines: str,
    queues: str = "cpu",
    age: float = 0,
    name: str = "",
    features: list[str] | None = None,
    slots: int = 1,
) -> None:
    with database.write() as session:
        session.add(
            Worker(
                id=name or uuid4().hex,
                host="test",
                pid=1,
                version="0",
                queues=queues,
                engines=engines,
                features=features,
                slots=slots,
                hardware={"gpus": [{}] if "gpu" in queues else []},
                last_seen_at=now() - age,
            )
        )


def claimed(database: Database, engines: tuple[str, ...], queues: tuple[str, ...] = ("cpu", "any")) -> str | None:
    with database.write() as session:
        job = lifecycle.claim(session, "w", queues, 60, known_features(engines))
    return job.id if job else None


def waiting_for(database: Database, job_id: str) -> str | None:
    with database.read() as session:
        job = views.job(session, session.get_one(Job, job_id).project_id, job_id)
        assert job is not None
        return waiting.waiting_for(job, waiting.fleet(session, silent_for=60))


def notes(database: Database, job_id: str) -> list[dict[str, str]]:
    with database.read() as session:
        return list(session.scalars(select(Event.data).where(Event.job_id == job_id, Event.type == "note")))


def sweep_after(database: Database, seconds: float) -> None:
    sweep(database, POLICY, CommitWakeup(database), engine_seconds=seconds)


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
    busy = "all slots of the live workers that can run it are busy (1 on 1 worker)"
    assert waiting_for(database, for_cpu) == "all live workers take only jobs that need a GPU"
    assert (waiting_for(database, for_gpu), waiting_for(database, for_either)) == (busy, busy)
    add_worker(database, "trainer")
    assert waiting_for(database, for_cpu) == "a worker is about to take it"
    assert (waiting_for(database, for_gpu), waiting_for(database, for_either)) == (busy, busy)


def test_a_job_says_that_gpus_are_busy_though_a_slot_is_free(database: Database, submit: Callable[..., str]) -> None:
    submit("trainer", queue="gpu")
    claimed(database, PLAIN, ("cpu", "gpu", "any"))
    add_worker(database, "trainer", queues="cpu,gpu", name="w", slots=2)
    for_cpu, for_gpu, for_either = (submit("trainer", queue=queue) for queue in ("cpu", "gpu", "any"))
    assert waiting_for(database, for_cpu) == "a worker is about to take it"
    busy = "all GPUs of the live workers with a free slot are busy (1 on 1 worker)"
    assert (waiting_for(database, for_gpu), waiting_for(database, for_either)) == (busy, busy)
    add_worker(database, "trainer", queues="cpu,gpu")
    assert waiting_for(database, for_gpu) == "a worker is about to take it"


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
    (reported,) = notes(database, waits)
    assert "none offers the engine tensorflow" in reported["message"]
    assert notes(database, served) == []


def test_a_note_is_not_written_twice_nor_where_something_else_has_happened(
    database: Database, submit: Callable[..., str]
) -> None:
    job_id = submit("tensorflow")
    reported = []
    for _ in range(2):
        with database.write() as session:
            reported.append(lifecycle.note(session, job_id, 1, "x", "tensorflow"))
    assert reported == [True, False]
    assert claimed(database, ("tensorflow",)) == job_id
    with database.write() as session:
        assert not lifecycle.note(session, job_id, 3, "y", "tensorflow")
    assert notes(database, job_id) == [{"message": "x", "engine": "tensorflow"}]


NEW = [*PLAIN_FEATURES, "training.later"]


def test_a_job_is_claimed_only_by_a_worker_that_knows_all_its_features(
    database: Database, submit: Callable[..., str]
) -> None:
    newer, plain = submit("trainer", features=NEW), submit("trainer", features=PLAIN_FEATURES)
    without_list = submit("trainer")
    assert [claimed(database, PLAIN), claimed(database, PLAIN), claimed(database, PLAIN)] == [plain, without_list, None]
    with database.write() as session:
        job = lifecycle.claim(session, "w", ("cpu",), 60, {*known_features(), "training.later"})
    assert job is not None
    assert job.id == newer


def test_a_job_says_which_features_no_live_worker_knows(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit("trainer", features=NEW)
    add_worker(database, "trainer", features=[])
    add_worker(database, "trainer", features=PLAIN_FEATURES)
    add_worker(database, "trainer", features=NEW, age=3600)
    assert waiting_for(database, job_id) == (
        "no live worker knows training.later, which this job uses; start a worker of a newer version"
    )
    with database.write() as session:
        session.execute(update(Job).values(available_at=now() - 100))
    for _ in range(2):
        sweep_after(database, 50)
    (reported,) = notes(database, job_id)
    assert "none knows training.later" in reported["message"]
    add_worker(database, "trainer", features=NEW)
    assert waiting_for(database, job_id) == "a worker is about to take it"


def test_a_job_for_either_kind_of_machine_is_left_only_to_gpu_workers_that_know_its_features(
    database: Database, submit: Callable[..., str]
) -> None:
    add_worker(database, "trainer", queues="cpu,gpu", features=PLAIN_FEATURES)
    left, ours = (submit("trainer", queue="any", features=features) for features in (PLAIN_FEATURES, NEW))
    with database.write() as session:
        job = lifecycle.claim(session, "w", ("cpu", "any"), 60, NEW)
    assert job is not None
    assert job.id == ours
    assert claimed(database, PLAIN) is None
    assert claimed(database, PLAIN, ("cpu", "gpu", "any")) == left
