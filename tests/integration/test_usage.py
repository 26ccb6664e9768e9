"""How long a job has waited, run and held GPUs. Times are moved in the database instead of waited for."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from app import auth
from app.db import Database, now
from app.failures import Failure, FailureCode
from app.identifiers import new_id
from app.jobs import lifecycle
from app.jobs.decision import RetryPolicy
from app.jobs.lifecycle import Lease, LostLease
from app.jobs.outcomes import Failed, Stopped, StopReason, Succeeded
from app.jobs.sweeper import sweep
from app.jobs.tables import Artifact, Job
from app.jobs.usage import Usage, usage
from app.jobs.wakeup import CommitWakeup

POLICY = RetryPolicy(max_failures=3, max_workers_lost=2, max_stalled=9, backoff_seconds=0)
DIED = Failed(Failure.of(FailureCode.TRAINING_PROCESS_DIED, "x"))
CPU, GPU = ("cpu", "any"), ("cpu", "gpu", "any")


@pytest.fixture
def submit(database: Database) -> Callable[..., str]:
    def submit(queue: str = "cpu") -> str:
        with database.write() as session:
            job = Job(
                id=new_id("job"), project_id=auth.ensure_project(session, "default").id, task="t", user_metadata={},
                priority=0, queue=queue, spec={}, timeout_seconds=3600, body_sha256="0" * 64,
            )  # fmt: skip
            lifecycle.submit(session, job)
        return job.id

    return submit


def claim(database: Database, queues: tuple[str, ...] = CPU, lease: float = 600) -> Lease:
    with database.write() as session:
        job = lifecycle.claim(session, "w", queues, lease)
    assert job is not None
    return Lease(job.id, job.attempt, "w")


def pass_seconds(database: Database, seconds: float) -> None:
    """Let the present status of every job have lasted so much longer."""
    with database.write() as session:
        session.execute(
            update(Job).values(
                waiting_since=Job.waiting_since - seconds,
                first_started_at=Job.first_started_at - seconds,
                started_at=Job.started_at - seconds,
                lease_expires_at=Job.lease_expires_at - seconds,
                paused_at=Job.paused_at - seconds,
            )
        )


def job_of(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def used(database: Database, job_id: str) -> Usage:
    with database.read() as session:
        return usage(session.get_one(Job, job_id), session.execute(select(now())).scalar_one())


def about(queued: float, running: float, gpu: float = 0) -> object:
    return pytest.approx((queued, running, gpu), abs=5)


def test_waiting_and_running_add_up_over_attempts_and_a_pause_is_neither(
    database: Database, submit: Callable[..., str]
) -> None:
    job_id = submit()
    pass_seconds(database, 100)
    assert used(database, job_id) == about(100, 0)
    lease = claim(database)
    first = job_of(database, job_id).first_started_at
    pass_seconds(database, 200)
    assert used(database, job_id) == about(100, 200)
    with database.write() as session:
        lifecycle.conclude(session, lease, DIED, POLICY)
    pass_seconds(database, 30)
    assert used(database, job_id) == about(130, 200)
    with database.write() as session:
        lifecycle.pause(session, job_id)
    pass_seconds(database, 5000)
    assert used(database, job_id) == about(130, 200)
    with database.write() as session:
        lifecycle.resume(session, job_id)
    pass_seconds(database, 40)
    lease = claim(database)
    pass_seconds(database, 50)
    with database.write() as session:
        lifecycle.pause(session, job_id)
        lifecycle.conclude(session, lease, Stopped(StopReason.PAUSE), POLICY)
        lifecycle.resume(session, job_id)
    lease = claim(database)
    pass_seconds(database, 7)
    with database.write() as session:
        model = Artifact(
            id=new_id("art"), job_id=job_id, attempt=3, kind="model", step=1, epoch=1.0, is_best=False, metrics={}, prefix="x",
            files=[], manifest_sha256="0" * 64,
        )  # fmt: skip
        lifecycle.conclude(session, lease, Succeeded(model, {}), POLICY)
    pass_seconds(database, 9000)
    assert used(database, job_id) == about(170, 257)
    job = job_of(database, job_id)
    assert first is not None
    assert job.started_at is not None
    # Each span of pass_seconds moved the first start back as well.
    assert job.first_started_at == pytest.approx(first - 200 - 30 - 5000 - 40 - 50 - 7 - 9000, abs=1e-3)
    assert job.first_started_at < job.started_at


def test_a_lost_worker_has_held_the_job_until_its_lease_ran_out(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit()
    old = claim(database, lease=70)
    pass_seconds(database, 100)
    assert sweep(database, POLICY, CommitWakeup(database)) == 1
    assert used(database, job_id) == about(30, 70)
    with pytest.raises(LostLease), database.write() as session:
        lifecycle.conclude(session, old, DIED, POLICY)
    assert used(database, job_id) == about(30, 70)
    claim(database)
    assert used(database, job_id) == about(30, 70)


def test_the_owner_counts_all_its_time_also_where_its_lease_had_run_out(
    database: Database, submit: Callable[..., str]
) -> None:
    job_id = submit()
    lease = claim(database, lease=70)
    pass_seconds(database, 100)
    with database.write() as session:
        lifecycle.conclude(session, lease, Stopped(StopReason.DATABASE_SILENT), POLICY)
    assert used(database, job_id) == about(0, 100)


@pytest.mark.parametrize(
    ("queue", "queues", "gpus"), [("any", GPU, 1), ("gpu", GPU, 1), ("cpu", GPU, 0), ("any", CPU, 0)]
)
def test_gpu_seconds_are_those_of_attempts_that_held_one(
    database: Database, submit: Callable[..., str], queue: str, queues: tuple[str, ...], gpus: int
) -> None:
    job_id = submit(queue)
    lease = claim(database, queues)
    pass_seconds(database, 60)
    assert used(database, job_id) == about(0, 60, 60 * gpus)
    with database.write() as session:
        lifecycle.conclude(session, lease, Stopped(StopReason.WORKER_STOPPING), POLICY)
    assert used(database, job_id) == about(0, 60, 60 * gpus)


def test_a_job_that_a_service_of_the_version_before_queued_has_waited_since_then(
    database: Database, submit: Callable[..., str]
) -> None:
    job_id = submit()
    with database.write() as session:
        session.execute(update(Job).values(waiting_since=None, queued_at=now() - 80))
    assert used(database, job_id) == about(80, 0)
    claim(database)
    assert used(database, job_id) == about(80, 0)
