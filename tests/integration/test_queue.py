"""The queue as an index: the same order as sorting all that waits, found without reading it."""

import random
from collections import Counter
from typing import Any

import pytest
from attempts import POLICY, RELEASED
from sqlalchemy import event, func, select, text, update

from app import auth
from app.db import Database
from app.identifiers import new_id
from app.jobs import lifecycle
from app.jobs.lifecycle import Lease
from app.jobs.lifecycle.heads import FRONT, next_projects
from app.jobs.lifecycle.line import first_in_line
from app.jobs.needs import needs_of
from app.jobs.tables import Job

KNOWN = ["training.engine=trainer", "training.warmup_steps"]
UNKNOWN = "training.later"
PROJECTS = ("one", "two", "three")
FAR = 1e12


def add(database: Database, jobs: list[dict[str, Any]]) -> list[Job]:
    with database.write() as session:
        projects = {name: auth.ensure_project(session, name).id for name in PROJECTS}
        added = [
            Job(
                id=new_id("job"), task="t", user_metadata={}, spec={}, timeout_seconds=60, body_sha256="0" * 64,
                **{**job, "project_id": projects[job["project_id"]]},
            )
            for job in jobs
        ]  # fmt: skip
        session.add_all(added)
    return added


def drawn(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "project_id": draw.choice(PROJECTS),
            "priority": draw.choice([0, 0, 0, 5]),
            "queue": draw.choice(["cpu", "any", "gpu"]),
            "queued_at": float(draw.randrange(1000)),
            "available_at": draw.choice([0.0, 0.0, 0.0, FAR]),
            "features": draw.choice([KNOWN, KNOWN[:1], [*KNOWN, UNKNOWN], None]),
            "cancel_requested_at": draw.choice([None, None, None, 1.0]),
        }
        for _ in range(60)
    ]


def by_sorting(jobs: list[Job]) -> list[str]:
    """The claims of a worker without a GPU, by what the documentation says of the order."""
    waiting = [
        job for job in jobs
        if job.queue in {"cpu", "any"} and job.available_at < FAR and job.cancel_requested_at is None
        and UNKNOWN not in (job.features or [])
    ]  # fmt: skip
    running: Counter[str] = Counter()
    claims: list[str] = []
    while waiting:
        best = min(waiting, key=lambda job: (-job.priority, running[job.project_id], job.queued_at, job.id))
        waiting.remove(best)
        running[best.project_id] += 1
        claims.append(best.id)
    return claims


def claims(database: Database) -> list[str]:
    found: list[str] = []
    while True:
        with database.write() as session:
            job = lifecycle.claim(session, "w", ("cpu", "any"), 60, KNOWN)
        if job is None:
            return found
        found.append(job.id)


@pytest.mark.parametrize("seed", range(4))
def test_jobs_are_claimed_in_the_order_of_sorting_all_that_wait(database: Database, seed: int) -> None:
    jobs = add(database, drawn(seed))
    assert claims(database) == by_sorting(jobs)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_front_of_one_project_hides_no_other(database: Database, seed: int) -> None:
    draw = random.Random(seed)
    busy = [{"project_id": "one", "queued_at": float(number), "priority": 1} for number in range(2 * FRONT)]
    later = [
        {
            "project_id": draw.choice(PROJECTS),
            "queued_at": float(1000 + draw.randrange(9)),
            "priority": draw.choice([0, 1]),
        }
        for _ in range(20)
    ]
    waiting = [{"project_id": "two", "queued_at": 0.0, "priority": 2, "available_at": FAR} for _ in range(FRONT + 1)]
    basis = {"queue": "cpu", "features": KNOWN}
    drawn = [*busy, *later, *(waiting if seed else [])]
    jobs = add(database, [{**basis, "available_at": 0.0, "cancel_requested_at": None, **job} for job in drawn])
    assert claims(database) == by_sorting(jobs)


def test_jobs_of_an_earlier_service_are_claimed_too(database: Database) -> None:
    jobs = add(database, [{**job, "features": job["features"] and KNOWN} for job in drawn(9)])
    with database.write() as session:
        session.execute(update(Job).values(needs=None))
    assert claims(database) == by_sorting(jobs)
    with database.read() as session:
        assert session.scalar(select(func.count()).where(Job.needs.is_(None))) == 0


def test_needs_are_the_same_for_jobs_that_the_same_workers_run(database: Database) -> None:
    basis = {"project_id": "one", "priority": 0, "queue": "cpu", "features": KNOWN}
    same, swapped, later, old = add(
        database,
        [basis, {**basis, "features": KNOWN[::-1]}, {**basis, "features": [UNKNOWN]}, {**basis, "features": None}],
    )
    assert same.needs == swapped.needs == needs_of("cpu", "trainer", KNOWN)
    assert len({same.needs, later.needs, old.needs}) == 3


def test_a_job_that_was_settled_on_a_gpu_is_left_to_workers_with_one(database: Database) -> None:
    (job,) = add(database, [{"project_id": "one", "priority": 0, "queue": "any", "features": KNOWN}])
    with database.write() as session:
        claimed = lifecycle.claim(session, "w", ("gpu", "any"), 60, KNOWN)
        assert claimed is not None
        lease = Lease(claimed.id, claimed.attempt, "w")
        lifecycle.record(session, lease, [], resolved={"device": "cuda"})
        lifecycle.conclude(session, lease, RELEASED, POLICY)
    assert claims(database) == []
    with database.write() as session:
        again = lifecycle.claim(session, "w", ("gpu", "any"), 60, KNOWN)
    assert again is not None
    assert again.id == job.id


@pytest.mark.parametrize("seed", range(4))
def test_the_line_is_the_order_of_sorting_all_that_wait(database: Database, seed: int) -> None:
    jobs = [job for job in add(database, drawn(seed)) if job.queue == "cpu"]
    with database.write() as session:
        for _ in range(5):
            lifecycle.claim(session, "w", ("cpu",), 60, KNOWN)
    with database.read() as session:
        statuses = dict(session.execute(select(Job.id, Job.status)).tuples().all())
        line = first_in_line(session, "cpu", 1000)
    running = Counter(job.project_id for job in jobs if statuses[job.id] == "running")
    waiting = [job for job in jobs if statuses[job.id] == "queued"]
    by_hand = sorted(waiting, key=lambda job: (-job.priority, running[job.project_id], job.queued_at, job.id))
    assert line.ids() == [job.id for job in by_hand]
    assert line.running == running


def test_a_claim_reads_no_list_of_waiting_jobs(database: Database) -> None:
    add(
        database,
        [{"project_id": PROJECTS[n % 3], "priority": 0, "queue": "cpu", "features": KNOWN} for n in range(600)],
    )
    with database.write() as session:
        session.execute(text("ANALYZE"))
    explain = "EXPLAIN " if database.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    plans: list[list[str]] = []

    def note(connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "RECURSIVE" in statement and not statement.startswith(explain):
            rows = connection.exec_driver_sql(explain + statement, values)
            plans.append([" ".join(map(str, row)) for row in rows])

    event.listen(database.engine, "before_cursor_execute", note)
    with database.read() as session:
        if database.engine.dialect.name == "postgresql":
            # It reads a small table whole, though it has an index. What is left of that now has none.
            session.execute(text("SET LOCAL enable_seqscan = off"))
        found = next_projects(session, ("cpu", "any"), KNOWN, 60, looks_at_all=True)
        assert len(found) == len(PROJECTS)
    assert len(plans) == 2
    plan = [step for steps in plans for step in steps]
    assert any("ix_jobs_waiting" in step for step in plan), plan
    scans = [step for step in plan if "Seq Scan on jobs" in step or ("SCAN jobs" in step and "INDEX" not in step)]
    assert not scans, plan
