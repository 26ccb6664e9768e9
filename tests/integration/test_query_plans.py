"""Every read that people and processes repeat finds its rows through an index, on both databases."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine, event, insert, text
from sqlalchemy.orm import Session

from app import auth, migrate
from app.datasets import queries as datasets
from app.db import Database
from app.identifiers import new_id
from app.jobs import event_log, metric_series, queries, text_output, views, waiting
from app.jobs.lifecycle.heads import next_projects
from app.jobs.lifecycle.line import first_in_line
from app.jobs.states import JobStatus
from app.jobs.tables import Event, Job
from app.jobs.views import Filters, Place

LARGE = ("jobs", "job_metadata", "events", "log_chunks", "artifacts", "datasets", "job_datasets", "webhook_deliveries")
FEATURES = ["training.engine=trainer"]
JOBS, PROJECTS = 3000, 3


class At(NamedTuple):
    """What a read is about."""

    session: Session
    project: str
    job: str


QUERIES: dict[str, Callable[[At], object]] = {
    "a job": lambda at: views.job(at.session, at.project, at.job),
    "the place of a job": lambda at: views.place(at.session, at.project, at.job),
    "events": lambda at: event_log.page(at.session, at.job, after=3, limit=20),
    "events of a type": lambda at: event_log.page(at.session, at.job, after=3, limit=20, kind="metric"),
    "the head of a log": lambda at: event_log.head(at.session, at.project, at.job),
    "heads of logs": lambda at: event_log.heads(at.session, [at.job, "x"]),
    "metric series": lambda at: metric_series.series(at.session, at.job),
    "the end of the output": lambda at: text_output.tail(at.session, at.job, attempt=None, limit=100),
    "output": lambda at: text_output.part(at.session, at.job, attempt=1, start=7, limit=100),
    "checkpoints": lambda at: queries.checkpoints(at.session, at.job),
    "datasets of a job": lambda at: queries.job_datasets(at.session, at.job),
    "a job that needs a dataset": lambda at: queries.job_that_needs(at.session, "ds"),
    "datasets": lambda at: datasets.datasets(at.session, at.project, limit=20, after=None),
    "more datasets": lambda at: datasets.datasets(at.session, at.project, limit=20, after="ds_x"),
    "running jobs of a project": lambda at: queries.running_on(at.session, at.project),
    "expired leases": lambda at: queries.expired_leases(at.session),
    "passed deadlines": lambda at: queries.past_deadline(at.session),
    "due queues": lambda at: queries.due_queues(at.session, within=60),
    "the longest wait": lambda at: queries.longest_wait(at.session),
    "the fleet": lambda at: waiting.fleet(at.session, silent_for=60),
    "the line": lambda at: first_in_line(at.session, "cpu", 100),
    "a claim": lambda at: next_projects(at.session, ("cpu", "any"), FEATURES, 60),
    "a claim that looks at all": lambda at: next_projects(at.session, ("cpu",), FEATURES, 60, looks_at_all=True),
}
FILTERS = {
    "all": Filters(),
    "status": Filters(status="succeeded"),
    "a status that none has": Filters(status="failed"),
    "task": Filters(task="t"),
    "name": Filters(name="n7"),
    "metadata": Filters(metadata={"team": "search"}),
    "two pairs": Filters(metadata={"team": "search", "run": "7"}),
    "created": Filters(created_after=10.0, created_before=500.0),
    "status and task": Filters(status="succeeded", task="t"),
    "name, pair and time": Filters(name="n7", metadata={"run": "7"}, created_after=1.0),
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, str, str]]:
    """A database with so many jobs that a planner has a choice, a project, and one of its jobs."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('plans') / 'full.db'}"
    else:
        url = request.getfixturevalue("postgres").create_database(f"plans{time.time_ns()}")
    database = Database(url)
    migrate.upgrade(database)
    with database.write() as session:
        projects = [auth.ensure_project(session, f"p{number}").id for number in range(PROJECTS)]
        fixed = {"task": "t", "spec": {}, "timeout_seconds": 60, "body_sha256": "0" * 64, "queue": "cpu", "priority": 0}
        jobs = [
            {
                **fixed, "id": new_id("job"), "project_id": projects[number % PROJECTS], "features": FEATURES,
                "name": f"n{number % 50}", "user_metadata": {"team": ("search", "ads")[number % 2], "run": str(number)},
                "status": JobStatus.SUCCEEDED if number % 5 else JobStatus.QUEUED, "created_at": float(number),
            }
            for number in range(JOBS)
        ]  # fmt: skip
        session.execute(insert(Job), jobs)
        session.execute(
            insert(Event),
            [
                {"job_id": job["id"], "seq": seq, "type": "metric", "attempt": 1, "data": {"step": seq, "values": {}}}
                for job in jobs[:300]
                for seq in range(1, 11)
            ],
        )
        session.execute(text("ANALYZE"))
    yield database, projects[0], str(jobs[0]["id"])
    database.close()


def plans(engine: Engine, session: Session, run: Callable[[Session], object]) -> list[tuple[str, list[str]]]:
    """The statements that a read runs, each with the steps of its plan."""
    explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    found: list[tuple[str, list[str]]] = []

    def note(connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "SELECT" in statement and not statement.startswith("EXPLAIN"):
            rows = connection.exec_driver_sql(explain + statement, values)
            found.append((statement, [" ".join(map(str, row)) for row in rows]))

    event.listen(engine, "before_cursor_execute", note)
    try:
        run(session)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert found
    return found


def is_scan(step: str) -> bool:
    """Whether a step of a plan reads a large table, or an index on it, from one end to the other."""
    if "Seq Scan on" in step:
        return any(f"Seq Scan on {table}" in step for table in LARGE)
    # SQLite scans an index too where it reads all of it; the small partial indexes hold only what waits or runs.
    small = ("ix_jobs_waiting", "ix_jobs_front", "ix_jobs_running", "ix_jobs_available_at", "ix_jobs_deadline_at")
    scans = any(f"SCAN {table}" in step for table in LARGE)
    return scans and not any(name in step for name in small)


@pytest.mark.parametrize("name", QUERIES)
def test_no_read_goes_through_a_whole_table(full: tuple[Database, str, str], name: str) -> None:
    database, project, job = full
    check(database, lambda session: QUERIES[name](At(session, project, job)))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("name", FILTERS)
def test_no_list_goes_through_a_whole_table(full: tuple[Database, str, str], name: str, is_first: bool) -> None:
    database, project, _ = full
    after = None if is_first else Place(1500.0, "job_x")
    check(database, lambda session: views.jobs(session, project, limit=20, filters=FILTERS[name], after=after))


def check(database: Database, run: Callable[[Session], object]) -> None:
    with database.read() as session:
        if database.engine.dialect.name == "postgresql":
            # It reads a small table whole, though it has an index. What is left of that now has none.
            session.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, steps in plans(database.engine, session, run):
            assert not [step for step in steps if is_scan(step)], (statement, steps)


def test_a_scan_is_recognized(full: tuple[Database, str, str]) -> None:
    database, _, _ = full
    with database.read() as session:
        found = plans(
            database.engine, session, lambda session: session.execute(text("SELECT * FROM jobs WHERE gpus = 7"))
        )
    assert any(is_scan(step) for _, steps in found for step in steps)
