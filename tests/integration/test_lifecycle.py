"""The guards of the state machine, on every database that production uses."""

import threading
import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from attempts import CANCELLED, PAUSED, PERMANENT, RELEASED, RETRYABLE, out_of_memory, resolved
from servers import PostgresServer
from sqlalchemy import select, text, update

from app import auth
from app.db import DATABASE_AWAY, Database, now
from app.identifiers import new_id
from app.jobs import events, lifecycle, queries
from app.jobs.decision import History, RetryPolicy, Transition, decide
from app.jobs.lifecycle import Lease, LostLease, Requests, transitions
from app.jobs.lifecycle.line import first_in_line
from app.jobs.outcomes import Outcome, Succeeded
from app.jobs.states import JobStatus
from app.jobs.sweeper import sweep
from app.jobs.tables import Artifact, Event, Job
from app.jobs.wakeup import CommitWakeup

POLICY = RetryPolicy(max_failures=3, max_workers_lost=2, max_stalled=9, backoff_seconds=0)
SPEC = {
    "task": {"type": "text-classification"},
    "model": "local:x",
    "data": {"train": {"rows": [{"text": "a", "label": "b"}]}},
}


@pytest.fixture
def submit(database: Database) -> Callable[..., str]:
    def submit(priority: int = 0, queue: str = "cpu", project: str = "default", engine: str = "trainer") -> str:
        with database.write() as session:
            project_id = auth.ensure_project(session, project).id
            job = Job(
                id=new_id("job"),
                project_id=project_id,
                task="text-classification",
                user_metadata={},
                priority=priority,
                queue=queue,
                engine=engine,
                spec=SPEC,
                timeout_seconds=3600,
                body_sha256="0" * 64,
            )
            lifecycle.submit(session, job)
        return job.id

    return submit


def claim(database: Database, owner: str = "w1", lease: float = 60) -> Lease | None:
    with database.write() as session:
        job = lifecycle.claim(session, owner, ("cpu", "any"), lease)
    return Lease(job.id, job.attempt, owner) if job else None


def status(database: Database, job_id: str) -> str | None:
    with database.read() as session:
        return session.scalar(select(Job.status).where(Job.id == job_id))


def model_of(lease: Lease) -> Artifact:
    return Artifact(
        id=new_id("art"),
        job_id=lease.job_id,
        attempt=lease.attempt,
        kind="model",
        step=1,
        epoch=1.0,
        is_best=False,
        metrics={},
        prefix="x",
        files=[],
        manifest_sha256="0" * 64,
    )


def test_claim_takes_the_highest_priority_then_the_oldest(database: Database, submit: Callable[..., str]) -> None:
    first, second, urgent = submit(), submit(), submit(priority=5)
    claimed = [claim(database), claim(database), claim(database)]
    assert [lease.job_id for lease in claimed if lease] == [urgent, first, second]
    assert claim(database) is None


def test_claim_leaves_jobs_of_other_queues_alone(database: Database, submit: Callable[..., str]) -> None:
    submit(queue="gpu")
    any_job = submit(queue="any")
    assert (lease := claim(database)) is not None
    assert lease.job_id == any_job
    assert claim(database) is None


def test_many_workers_never_claim_the_same_job(database: Database, submit: Callable[..., str]) -> None:
    jobs = {submit() for _ in range(24)}
    claimed: list[str] = []

    def work(owner: str) -> None:
        while lease := claim(database, owner):
            claimed.append(lease.job_id)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(jobs)


def test_events_are_gapless_and_record_every_transition(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit()
    assert (lease := claim(database)) is not None
    with database.write() as session:
        lifecycle.record(
            session,
            lease,
            [events.reported("metric", {"step": 1, "epoch": 0.1, "values": {}}), events.note("x")],
            phase="training",
        )
    with database.write() as session:
        lifecycle.conclude(session, lease, Succeeded(model_of(lease), {"eval_accuracy": 0.5}), POLICY)
    with database.read() as session:
        found = session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.seq)).all()
    assert [event.seq for event in found] == [1, 2, 3, 4, 5]
    taken = [(event.data["from"], event.data["to"], event.data["actor"]) for event in found if event.type == "status"]
    assert taken == [(None, "queued", "user"), ("queued", "running", "worker"), ("running", "succeeded", "worker")]


def test_a_worker_that_lost_its_lease_writes_nothing(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit()
    assert (old := claim(database, "old", lease=-1)) is not None
    assert sweep(database, POLICY, CommitWakeup(database)) == 1
    assert (new := claim(database, "new")) is not None
    assert new.attempt == old.attempt + 1
    writes: list[Callable[..., object]] = [
        lambda session: lifecycle.renew(session, old, 60),
        lambda session: lifecycle.record(session, old, [events.note("x")]),
        lambda session: lifecycle.log(session, old, 0, "x"),
        lambda session: lifecycle.checkpoint(session, old, model_of(old), None),
        lambda session: lifecycle.conclude(session, old, Succeeded(model_of(old), {}), POLICY),
        lambda session: lifecycle.conclude(session, old, RETRYABLE, POLICY),
        lambda session: lifecycle.conclude(session, old, RELEASED, POLICY),
        lambda session: lifecycle.conclude(session, old, CANCELLED, POLICY),
    ]
    for write in writes:
        with pytest.raises(LostLease), database.write() as session:
            write(session)
    assert status(database, job_id) == JobStatus.RUNNING
    with database.read() as session:
        assert session.scalars(select(Artifact)).all() == []


def test_failures_go_back_to_the_queue_until_the_limit(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit()
    for expected in (JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.FAILED):
        assert (lease := claim(database)) is not None
        with database.write() as session:
            assert lifecycle.conclude(session, lease, RETRYABLE, POLICY).edge.target == expected
    assert status(database, job_id) == JobStatus.FAILED
    assert claim(database) is None


def test_a_permanent_failure_ends_the_job_at_once(database: Database, submit: Callable[..., str]) -> None:
    submit()
    assert (lease := claim(database)) is not None
    with database.write() as session:
        assert lifecycle.conclude(session, lease, PERMANENT, POLICY).edge.target == JobStatus.FAILED


def test_backoff_delays_the_next_claim(database: Database, submit: Callable[..., str]) -> None:
    submit()
    assert (lease := claim(database)) is not None
    with database.write() as session:
        lifecycle.conclude(session, lease, RETRYABLE, RetryPolicy(5, 5, 5, backoff_seconds=30))
    assert claim(database) is None
    with database.write() as session:
        session.execute(update(Job).values(available_at=now() - 1))
    assert claim(database) is not None


def test_cancel_ends_a_queued_job_and_asks_a_running_one(database: Database, submit: Callable[..., str]) -> None:
    running = submit()
    assert (lease := claim(database)) is not None
    queued = submit()
    with database.write() as session:
        assert lifecycle.cancel(session, queued)
        assert lifecycle.cancel(session, running)
        assert lifecycle.cancel(session, running)
    assert status(database, queued) == JobStatus.CANCELLED
    assert status(database, running) == JobStatus.RUNNING
    with database.write() as session:
        assert lifecycle.renew(session, lease, 60).cancel
        lifecycle.conclude(session, lease, CANCELLED, POLICY)
    with database.write() as session:
        assert not lifecycle.cancel(session, running)
    assert status(database, running) == JobStatus.CANCELLED


def test_a_cancel_beats_a_retry_and_a_reclaim(database: Database, submit: Callable[..., str]) -> None:
    first, second = submit(), submit()
    assert (one := claim(database)) is not None
    assert claim(database, lease=-1) is not None
    with database.write() as session:
        lifecycle.cancel(session, first)
        lifecycle.cancel(session, second)
        lifecycle.conclude(session, one, RETRYABLE, POLICY)
    sweep(database, POLICY, CommitWakeup(database))
    assert status(database, first) == status(database, second) == JobStatus.CANCELLED


def test_a_cancel_that_arrives_while_an_attempt_ends_is_not_lost(
    database: Database, submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    assert (lease := claim(database)) is not None

    def cancel() -> None:
        with database.write() as session:
            assert lifecycle.cancel(session, job_id)

    user = threading.Thread(target=cancel)

    def decide_while_the_user_cancels(outcome: Outcome, history: History, policy: RetryPolicy) -> Transition:
        user.start()
        # A writer of SQLite waits for the transaction of this one in any case.
        while database.engine.dialect.name == "postgresql" and user.is_alive() and not _somebody_waits(database):
            time.sleep(0.01)
        return decide(outcome, history, policy)

    monkeypatch.setattr(transitions, "decide", decide_while_the_user_cancels)
    with database.write() as session:
        lifecycle.conclude(session, lease, RETRYABLE, POLICY)
    user.join()
    assert status(database, job_id) == JobStatus.CANCELLED


def _somebody_waits(database: Database) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.read() as session:
        return bool(session.scalar(text(waiting)))


def test_a_cancel_beats_a_pause_that_is_being_carried_out(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit()
    assert (lease := claim(database)) is not None
    with database.write() as session:
        lifecycle.pause(session, job_id)
        lifecycle.cancel(session, job_id)
        lifecycle.conclude(session, lease, PAUSED, POLICY)
    assert status(database, job_id) == JobStatus.CANCELLED


def test_lost_workers_are_counted_apart_and_end_the_job_at_the_limit(
    database: Database, submit: Callable[..., str]
) -> None:
    job_id = submit()
    for expected in (JobStatus.QUEUED, JobStatus.FAILED):
        assert claim(database, lease=-1) is not None
        sweep(database, POLICY, CommitWakeup(database))
        assert status(database, job_id) == expected
    with database.read() as session:
        job = session.get_one(Job, job_id)
    assert (job.failures, job.workers_lost) == (0, 2)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"


def test_release_counts_nothing(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit()
    assert (lease := claim(database)) is not None
    with database.write() as session:
        lifecycle.conclude(session, lease, RELEASED, POLICY)
    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.failures, job.workers_lost) == (JobStatus.QUEUED, 0, 0)
        assert first_in_line(session, "cpu", 10).ids() == [job_id]


def test_a_job_that_ran_out_of_memory_is_settled_anew_and_nothing_is_counted(
    database: Database, submit: Callable[..., str]
) -> None:
    job_id = submit()
    assert (lease := claim(database)) is not None
    with database.write() as session:
        assert lifecycle.conclude(session, lease, out_of_memory(), POLICY).edge.target == JobStatus.QUEUED
    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.failures, job.workers_lost, job.stalled) == (JobStatus.QUEUED, 0, 0, 0)
        assert job.resolved == resolved(batch_size=8, gradient_accumulation=4).model_dump(mode="json")
    with pytest.raises(LostLease), database.write() as session:
        lifecycle.conclude(session, lease, out_of_memory(), POLICY)


def test_a_queued_job_past_its_deadline_fails(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit()
    assert (lease := claim(database)) is not None
    with database.write() as session:
        lifecycle.conclude(session, lease, RELEASED, POLICY)
        session.execute(update(Job).values(deadline_at=now() - 1))
    sweep(database, POLICY, CommitWakeup(database))
    assert status(database, job_id) == JobStatus.FAILED


def test_pause_frees_a_job_at_once_or_when_its_worker_obeys_and_resume_queues_it(
    database: Database, submit: Callable[..., str]
) -> None:
    running = submit()
    assert (lease := claim(database)) is not None
    queued = submit()
    with database.write() as session:
        assert lifecycle.pause(session, queued)
        assert lifecycle.pause(session, running)
        assert lifecycle.pause(session, running)
    assert status(database, queued) == JobStatus.PAUSED
    assert claim(database) is None
    with database.write() as session:
        assert lifecycle.renew(session, lease, 60) == Requests(cancel=False, pause=True)
        lifecycle.conclude(session, lease, PAUSED, POLICY)
    assert status(database, running) == JobStatus.PAUSED
    with database.write() as session:
        assert lifecycle.resume(session, running)
        assert not lifecycle.resume(session, running)
    assert (again := claim(database)) is not None
    assert (again.job_id, again.attempt) == (running, 2)
    with database.write() as session:
        assert not lifecycle.renew(session, again, 60).pause


def test_time_spent_paused_does_not_count_against_the_deadline(database: Database, submit: Callable[..., str]) -> None:
    job_id = submit()
    assert (lease := claim(database)) is not None
    with database.write() as session:
        before = queries.seconds_left(session, job_id)
        lifecycle.pause(session, job_id)
        lifecycle.conclude(session, lease, PAUSED, POLICY)
        session.execute(update(Job).values(paused_at=Job.paused_at - 1000))
        lifecycle.resume(session, job_id)
        after = queries.seconds_left(session, job_id)
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(1000, abs=5)


def test_a_pause_beats_a_retry_and_a_reclaim_and_a_cancel_beats_a_pause(
    database: Database, submit: Callable[..., str]
) -> None:
    failing, lost, cancelled = submit(), submit(), submit()
    leases = [claim(database), claim(database, lease=-1), claim(database, lease=-1)]
    assert all(leases)
    with database.write() as session:
        for job_id in (failing, lost, cancelled):
            lifecycle.pause(session, job_id)
        lifecycle.cancel(session, cancelled)
        assert leases[0] is not None
        assert lifecycle.conclude(session, leases[0], RETRYABLE, POLICY).edge.target == JobStatus.PAUSED
    sweep(database, POLICY, CommitWakeup(database))
    assert status(database, failing) == status(database, lost) == JobStatus.PAUSED
    assert status(database, cancelled) == JobStatus.CANCELLED
    with database.write() as session:
        assert lifecycle.cancel(session, lost)
    assert status(database, lost) == JobStatus.CANCELLED


def test_attempts_that_reach_no_new_step_end_a_crash_loop(database: Database, submit: Callable[..., str]) -> None:
    submit()
    policy = RetryPolicy(max_failures=99, max_workers_lost=99, max_stalled=2, backoff_seconds=0)
    for step, expected in ((10, "queued"), (10, "queued"), (12, "queued"), (12, "queued"), (9, "failed")):
        assert (lease := claim(database)) is not None
        with database.write() as session:
            lifecycle.record(session, lease, [], progress={"step": step, "of": 20, "epoch": 1.0})
            assert lifecycle.conclude(session, lease, RETRYABLE, policy).edge.target == expected


def test_projects_take_turns(database: Database, submit: Callable[..., str]) -> None:
    greedy = [submit() for _ in range(3)]
    modest = submit(project="modest")
    claimed = [claim(database) for _ in range(4)]
    assert [lease.job_id for lease in claimed if lease] == [greedy[0], modest, *greedy[1:]]


def test_a_statement_of_a_worker_waits_only_so_long_for_a_locked_row(postgres: PostgresServer) -> None:
    url = postgres.create_database(f"t{uuid4().hex}")
    frozen, waiting_worker = Database(url), Database(url, lock_seconds=0.5)
    with frozen.write() as session:
        session.execute(text("CREATE TABLE rows (value INTEGER)"))
        session.execute(text("INSERT INTO rows VALUES (0)"))
    change = text("UPDATE rows SET value = value + 1")
    try:
        with frozen.write() as holder:
            holder.execute(change)
            with pytest.raises(DATABASE_AWAY, match="lock timeout"), waiting_worker.write() as session:
                session.execute(change)
        with waiting_worker.write() as session:
            session.execute(change)
            assert session.scalar(text("SELECT value FROM rows")) == 2
    finally:
        frozen.close()
        waiting_worker.close()
