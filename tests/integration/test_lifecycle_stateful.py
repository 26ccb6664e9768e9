"""Random interleavings of two workers, people and the sweeper: whatever order things happen in, the invariants hold.

HYPOTHESIS_PROFILE=nightly drives 10,000 steps; CI drives fewer, enough to find the planted bug below.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import event_data
import pytest
from attempts import CANCELLED, PAUSED, PERMANENT, POSTPONED, RELEASED, RETRYABLE, TIMED_OUT, out_of_memory
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import auth, migrate
from app.auth.tables import Project
from app.db import Database, now
from app.identifiers import new_id
from app.jobs import lifecycle
from app.jobs.decision import RetryPolicy
from app.jobs.events import note
from app.jobs.lifecycle import Lease, LostLease
from app.jobs.outcomes import Outcome, Succeeded
from app.jobs.states import EDGES, TERMINAL, JobStatus
from app.jobs.sweeper import sweep
from app.jobs.tables import Artifact, Event, Job
from app.jobs.wakeup import CommitWakeup
from app.schema import metadata
from app.webhooks.tables import Webhook, WebhookDelivery

EXAMPLES, STEPS = (200, 50) if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else (60, 40)
POLICY = RetryPolicy(max_failures=4, max_workers_lost=4, max_stalled=4, backoff_seconds=0)
SPEC = {
    "task": {"type": "text-classification"},
    "model": "local:x",
    "data": {"train": {"rows": [{"text": "a", "label": "b"}]}},
}
EVERYTHING = ",".join(f"job.{status}" for status in JobStatus)
CLOCK_SECONDS = 0.01
"""How far apart two reads of the database's clock in one statement may lie."""
LEGAL = {(edge.source, edge.target) for edge in EDGES.values()} | {(None, JobStatus.QUEUED)}


class Lifecycle(RuleBasedStateMachine):
    """Two workers and their, perhaps outdated, leases. The database is the test's own."""

    database: Database
    leases = Bundle("leases")
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        with self.database.write() as session:
            for table in reversed(metadata.sorted_tables):
                session.execute(table.delete())
            project_id = auth.ensure_project(session, "one").id
            session.add(Webhook(id="wh", project_id=project_id, url="x", events=EVERYTHING, secret="x"))
        self.submitted: list[str] = []
        self.ended: dict[str, str] = {}
        self.attempts: dict[str, int] = {}

    @rule(target=jobs, project=st.sampled_from(["one", "two"]), priority=st.integers(-1, 1))
    def submit(self, project: str, priority: int) -> str:
        with self.database.write() as session:
            project_id = auth.ensure_project(session, project).id
            job = Job(
                id=new_id("job"), project_id=project_id, task="t", user_metadata={}, priority=priority, queue="cpu",
                spec=SPEC, timeout_seconds=3600, body_sha256="0" * 64,
            )  # fmt: skip
            lifecycle.submit(session, job)
        self.submitted.append(job.id)
        return job.id

    @rule(target=leases, owner=st.sampled_from(["w1", "w2"]))
    def claim(self, owner: str) -> object:
        with self.database.write() as session:
            job = lifecycle.claim(session, owner, ("cpu",), 60)
        return Lease(job.id, job.attempt, owner) if job else multiple()

    @rule(lease=leases, steps=st.integers(0, 3))
    def report(self, lease: Lease, steps: int) -> None:
        self.as_owner(lease, lambda session: lifecycle.record(session, lease, [note("x")] * steps, phase="training"))

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        self.as_owner(lease, lambda session: lifecycle.renew(session, lease, 60))

    @rule(lease=leases)
    def succeed(self, lease: Lease) -> None:
        self.conclude(lease, Succeeded(self.model_of(lease), {}))

    @rule(
        lease=leases,
        outcome=st.sampled_from([PERMANENT, RETRYABLE, POSTPONED, RELEASED, TIMED_OUT, out_of_memory()]),
    )
    def fail(self, lease: Lease, outcome: Outcome) -> None:
        self.conclude(lease, outcome)

    @rule(lease=leases)
    def obey(self, lease: Lease) -> None:
        def end(session: Session) -> None:
            requests = lifecycle.look(session, lease)
            outcome = CANCELLED if requests.cancel else PAUSED if requests.pause else RELEASED
            lifecycle.conclude(session, lease, outcome, POLICY)

        self.as_owner(lease, end)

    @rule(job_id=jobs, request=st.sampled_from([lifecycle.cancel, lifecycle.pause, lifecycle.resume]))
    def request(self, job_id: str, request: Callable[[Session, str], bool]) -> None:
        with self.database.write() as session:
            request(session, job_id)

    @rule(job_id=jobs)
    def fall_silent(self, job_id: str) -> None:
        with self.database.write() as session:
            session.execute(
                update(Job).where(Job.id == job_id, Job.status == "running").values(lease_expires_at=now() - 1)
            )

    @rule(job_id=consumes(jobs))
    def run_out_of_time(self, job_id: str) -> None:
        with self.database.write() as session:
            session.execute(update(Job).where(Job.id == job_id).values(deadline_at=now() - 1))

    @rule()
    def sweep(self) -> None:
        sweep(self.database, POLICY, CommitWakeup(self.database))

    @invariant()
    def what_has_ended_stays_and_attempts_only_grow(self) -> None:
        with self.database.read() as session:
            jobs = session.scalars(select(Job).where(Job.id.in_(self.submitted))).all()
        for job in jobs:
            assert self.ended.setdefault(job.id, job.status) == job.status or job.id not in self.ended
            if job.status not in TERMINAL:
                self.ended.pop(job.id)
            assert job.attempt >= self.attempts.get(job.id, 0)
            self.attempts[job.id] = job.attempt
            assert (job.status == JobStatus.RUNNING) == (job.owner is not None) == (job.lease_expires_at is not None)
            if job.status == JobStatus.QUEUED:
                assert job.cancel_requested_at is None, "nobody would ever claim it"
                assert job.pause_requested_at is None, "nobody would ever claim it"
            assert (job.status == JobStatus.SUCCEEDED) == (job.artifact_id is not None)
            assert (job.first_started_at is None) == (job.attempt == 0)
            assert min(job.queued_seconds, job.running_seconds) >= -CLOCK_SECONDS
            if job.finished_at is not None:
                lasted = job.finished_at - job.created_at
                assert job.queued_seconds + job.running_seconds <= lasted + CLOCK_SECONDS * job.event_seq

    @invariant()
    def logs_are_gapless_and_tell_of_legal_transitions_only(self) -> None:
        with self.database.read() as session:
            for job_id in self.submitted:
                events = session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.seq)).all()
                assert [event.seq for event in events] == list(range(1, len(events) + 1))
                taken = [(event.data["from"], event.data["to"]) for event in events if event.type == "status"]
                assert set(taken) <= LEGAL
                assert [source for source, _ in taken[1:]] == [target for _, target in taken[:-1]]
                event_data.check(events)

    @invariant()
    def the_outbox_holds_what_the_logs_tell_of_statuses(self) -> None:
        with self.database.read() as session:
            reported = select(Event.job_id, Event.seq).join(Job).join(Project)
            reported = reported.where(Event.type == "status", Project.name == "one")
            rows = select(WebhookDelivery.job_id, WebhookDelivery.seq)
            assert set(session.execute(reported)) == set(session.execute(rows))

    @invariant()
    def a_job_has_one_published_model_at_most(self) -> None:
        with self.database.read() as session:
            published = session.scalars(
                select(Artifact.job_id).where(Artifact.kind == "model", Artifact.job_id.in_(self.submitted))
            ).all()
        assert len(published) == len(set(published))

    def conclude(self, lease: Lease, outcome: Outcome) -> None:
        self.as_owner(lease, lambda session: lifecycle.conclude(session, lease, outcome, POLICY))

    def as_owner(self, lease: Lease, write: Callable[[Session], object]) -> None:
        """A write takes effect exactly when the lease is the current one."""
        with self.database.read() as session:
            job = session.get_one(Job, lease.job_id)
        is_current = (job.status, job.attempt, job.owner) == (JobStatus.RUNNING, lease.attempt, lease.owner)
        try:
            with self.database.write() as session:
                write(session)
        except LostLease:
            assert not is_current, "the owner was refused"
        else:
            assert is_current, "somebody else's write took effect"

    def model_of(self, lease: Lease) -> Artifact:
        return Artifact(
            id=new_id("art"), job_id=lease.job_id, attempt=lease.attempt, kind="model", step=1, epoch=1.0, is_best=False,
            metrics={}, prefix=f"{lease.job_id}/{lease.attempt}", files=[], manifest_sha256="0" * 64,
        )  # fmt: skip


@contextmanager
def machine(database: Database) -> Iterator[type[Lifecycle]]:
    yield type(f"Lifecycle{uuid4().hex}", (Lifecycle,), {"database": database})


BOUNDS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    derandomize=EXAMPLES == 60,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def test_invariants_hold_under_any_interleaving(database: Database) -> None:
    with machine(database) as tested:
        run_state_machine_as_test(tested, settings=BOUNDS)


@pytest.mark.parametrize("planted", ["no attempt in the guard", "no status in the guard"])
def test_a_planted_guard_bug_is_found(
    planted: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('planted') / 'test.db'}")
    migrate.upgrade(database)
    guards = {
        "no attempt in the guard": lambda self: (Job.id == self.job_id, Job.status == JobStatus.RUNNING),
        "no status in the guard": lambda self: (Job.id == self.job_id, Job.attempt == self.attempt),
    }
    monkeypatch.setattr(Lease, "guard", guards[planted])
    # A random interleaving meets the bug in one of some 20 examples; the run ends there.
    patient = settings(BOUNDS, max_examples=10 * EXAMPLES)
    with machine(database) as tested, pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(tested, settings=patient)
    database.close()
