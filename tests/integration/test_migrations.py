import json

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from app import migrate
from app.datasets.tables import Dataset
from app.db import Database
from app.jobs.needs import needs_of
from app.schema import metadata


def test_upgrade_reaches_the_tables_with_no_drift(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    assert migrate.is_current(database)


def test_downgrade_leaves_nothing_and_upgrade_works_again(database: Database) -> None:
    migrate.downgrade(database, "base")
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    assert not migrate.is_current(database)
    migrate.upgrade(database)
    assert migrate.is_current(database)


def test_jobs_of_the_version_before_keep_their_engine(database: Database) -> None:
    migrate.downgrade(database, "0002")
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name, created_at) VALUES ('p', 'p', 0)"))
        for name, spec in (("old", {"training": {"engine": "pytorch"}}), ("older", {})):
            connection.execute(
                text(
                    "INSERT INTO jobs (id, project_id, task, user_metadata, priority, queue, body_sha256, spec, status, attempt, "
                    "queued_at, available_at, timeout_seconds, failures, workers_lost, stalled, furthest_step, step_at_claim, "
                    "event_seq, created_at) VALUES (:id, 'p', 't', '{}', 0, 'cpu', 'x', :spec, 'queued', 0, 0, 0, 9, 0, 0, 0, 0, "
                    "0, 0, 0)"
                ),
                {"id": name, "spec": json.dumps(spec)},
            )
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        engines = connection.execute(text("SELECT id, engine FROM jobs ORDER BY id")).tuples().all()
    assert list(engines) == [("old", "pytorch"), ("older", "trainer")]


def test_datasets_of_the_version_before_stay_without_a_list_of_files(database: Database) -> None:
    migrate.downgrade(database, "0004")
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name, created_at) VALUES ('p', 'p', 0)"))
        connection.execute(
            text(
                "INSERT INTO datasets (id, project_id, filename, format, bytes, sha256, rows, columns, source_path, "
                "parquet_path, created_at) VALUES ('d', 'p', 'a.csv', 'csv', 1, 'x', 1, '[]', 's', 'p', 0)"
            )
        )
    migrate.upgrade(database)
    with database.read() as session:
        dataset = session.get_one(Dataset, "d")
    assert (dataset.filename, dataset.name, dataset.files) == ("a.csv", None, None)


def test_waiting_and_running_of_the_version_before_are_counted_from_the_events(database: Database) -> None:
    migrate.downgrade(database, "0007")
    moves = ((1, "queued", 100), (2, "running", 130), (3, "queued", 150), (4, "running", 155), (5, "succeeded", 200))
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name, created_at) VALUES ('p', 'p', 0)"))
        for name, resolved, last in (("cpu", None, 5), ("gpu", {"device": "cuda"}, 5), ("waits", None, 1)):
            connection.execute(
                text(
                    "INSERT INTO jobs (id, project_id, task, user_metadata, priority, queue, body_sha256, spec, resolved, status, "
                    "attempt, queued_at, available_at, timeout_seconds, failures, workers_lost, stalled, furthest_step, "
                    "step_at_claim, event_seq, created_at) VALUES (:id, 'p', 't', '{}', 0, 'cpu', 'x', '{}', :resolved, "
                    "'queued', 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0)"
                ),
                {"id": name, "resolved": json.dumps(resolved) if resolved else None},
            )
            for seq, status, at in moves[:last]:
                connection.execute(
                    text(
                        "INSERT INTO events (job_id, seq, type, attempt, data, created_at) VALUES "
                        "(:job, :seq, 'status', 0, :data, :at)"
                    ),
                    {"job": name, "seq": seq, "data": json.dumps({"to": status}), "at": at},
                )
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        counted = connection.execute(
            text(
                "SELECT id, first_started_at, queued_seconds, running_seconds, gpu_seconds, waiting_since FROM jobs ORDER BY id"
            )
        )
        assert counted.tuples().all() == [
            ("cpu", 130, 35, 65, 0, 150),
            ("gpu", 130, 35, 65, 65, 150),
            ("waits", None, 0, 0, 0, 100),
        ]


def test_what_unfinished_jobs_of_the_version_before_need_is_stored(database: Database) -> None:
    migrate.downgrade(database, "0008")
    features = ["training.engine=trainer", "training.warmup_steps"]
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name, created_at) VALUES ('p', 'p', 0)"))
        for name, status, known in (("new", "queued", features), ("old", "paused", None), ("past", "failed", features)):
            connection.execute(
                text(
                    "INSERT INTO jobs (id, project_id, task, user_metadata, priority, queue, body_sha256, spec, features, status, "
                    "attempt, queued_at, available_at, timeout_seconds, failures, workers_lost, stalled, furthest_step, "
                    "step_at_claim, event_seq, created_at) VALUES (:id, 'p', 't', '{}', 0, 'cpu', 'x', '{}', :features, "
                    ":status, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0)"
                ),
                {"id": name, "status": status, "features": json.dumps(known) if known else None},
            )
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        needs = connection.execute(text("SELECT id, needs FROM jobs ORDER BY id")).tuples().all()
    wanted = [("new", needs_of("cpu", "trainer", features)), ("old", needs_of("cpu", "trainer", None)), ("past", None)]
    assert list(needs) == wanted


def test_upgrade_twice_changes_nothing(database: Database) -> None:
    migrate.upgrade(database)
    assert migrate.is_current(database)
