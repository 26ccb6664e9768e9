"""The database cuts its connections, dies, or is locked."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from random import Random
from uuid import uuid4

import httpx
import psycopg
import pytest
from deployment import Deployment, Process, is_alive, wait_until
from injection import unhurried
from servers import PostgresServer, postgres_cluster
from sqlalchemy.engine import make_url
from tiny import spec

SHORT = spec(training={"max_steps": 20}, data={"eval": None})
ENDING = spec(training={"max_steps": 300}, checkpoints={"strategy": "steps", "every": 50}, data={"eval": None})
"""Ends while the database is away, or at least tries to."""
ENDLESS = spec(training={"max_steps": 10_000_000, "logging_steps": 100}, data={"eval": None})
CUT_SECONDS, EVERY_SECONDS = 20.0, 0.5
DOWN_SECONDS = 30.0
PATIENCE_SECONDS = 120.0
LOCKED_SECONDS = 10
HOLD = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
held.execute("COMMIT")
"""


def two_jobs_in_training(service: Deployment) -> tuple[str, str]:
    """An endless job and one that ends, both past their first step."""
    jobs = [service.client.post("/v1/jobs", body)["id"] for body in (ENDLESS, ENDING)]
    for job_id in jobs:
        service.wait_for(job_id, lambda seen: bool(seen["progress"]) and seen["progress"]["step"] > 1)
    return jobs[0], jobs[1]


def trains_on(worker: Process, job_id: str) -> bool:
    """Whether the first training process of a job is the only one, and lives."""
    pids = worker.training_pids_of(job_id)
    return len(pids) == 1 and is_alive(pids[0])


def ends_well(service: Deployment, endless: str, ending: str) -> None:
    """See that both are still in their first attempt, that the one goes on and the other ends, once."""
    before = service.client.get(f"/v1/jobs/{endless}")
    # Longer than the lease: whoever would have taken it for lost has had the time to say so.
    time.sleep(float(service.settings["TUNESMITH_LEASE_SECONDS"]) + 2)
    after = service.client.get(f"/v1/jobs/{endless}")
    assert (after["status"], after["attempt"], after["workers_lost"], after["failures"]) == ("running", 1, 0, 0), after
    assert after["progress"]["step"] > before["progress"]["step"]
    service.client.post(f"/v1/jobs/{endless}/cancel")
    for job_id, status in ((endless, "cancelled"), (ending, "succeeded")):
        done = service.wait_for_end(job_id)
        assert (done["status"], done["attempt"], done["workers_lost"]) == (status, 1, 0), done


def asked(service: Deployment, job_id: str, seconds: float, codes: list[int]) -> list[str]:
    """Ask for this and that for so long; returns the keys of the jobs that were posted, some of them in vain."""
    keys, end = [], time.monotonic() + seconds
    with service.http as http:
        while time.monotonic() < end:
            keys.append(uuid4().hex)
            answers = (
                http.post("/v1/jobs", json=SHORT, headers={"idempotency-key": keys[-1]}),
                http.get(f"/v1/jobs/{job_id}"),
                http.get(f"/v1/jobs/{job_id}/events"),
                http.get("/v1/jobs"),
                http.get("/readyz"),
                http.get("/metrics"),
            )
            codes += [answer.status_code for answer in answers]
            time.sleep(1)
    return keys


def run_once_each(service: Deployment, keys: list[str]) -> None:
    """Post them all again, as a client does that got no answer: each is one job, and ends well."""
    with service.http as http:
        for key in keys:
            answer = http.post("/v1/jobs", json=SHORT, headers={"idempotency-key": key})
            assert answer.status_code in (200, 201), answer.text
            done = service.wait_for_end(answer.json()["id"])
            assert (done["status"], done["attempt"]) == ("succeeded", 1), done


@contextmanager
def connections_cut(server: PostgresServer, database: str) -> Iterator[list[int]]:
    """End all connections to a database twice a second on average; yields how many each time.

    At random moments, so that now and then a transaction finds the time that it needs, however slow the machine is.
    """
    cut: list[int] = []
    gaps = Random(0)
    enough = threading.Event()

    def work() -> None:
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(host="127.0.0.1", port=server.port, user="postgres", dbname="postgres") as connection:
            connection.autocommit = True
            while not enough.wait(gaps.expovariate(1 / EVERY_SECONDS)):
                cut.append(len(connection.execute(ends, [database]).fetchall()))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield cut
    finally:
        enough.set()
        thread.join()


@pytest.mark.faults
def test_connections_that_are_cut_twice_a_second_cost_no_job_its_attempt(
    fleet: Deployment, postgres: PostgresServer
) -> None:
    api = fleet.start_api()
    worker = fleet.start_worker("--slots", "2", **unhurried())
    endless, ending = two_jobs_in_training(fleet)
    codes: list[int] = []
    with connections_cut(postgres, str(make_url(fleet.database_url).database)) as cut:
        keys = asked(fleet, endless, CUT_SECONDS, codes)
        # On a busy machine few transactions fit between two cuts.
        end = time.monotonic() + PATIENCE_SECONDS
        while not {200, 201} <= set(codes) and time.monotonic() < end:
            keys += asked(fleet, endless, 5, codes)
    assert sum(cut) > len(cut) > CUT_SECONDS, f"too few connections were cut: {cut}"
    assert set(codes) <= {200, 201, 503}, codes
    assert {200, 201} <= set(codes), codes
    assert trains_on(worker, endless)
    ends_well(fleet, endless, ending)
    run_once_each(fleet, keys)
    assert [len(worker.training_pids_of(job)) for job in (endless, ending)] == [1, 1]
    assert "Traceback" not in api.log


@pytest.mark.faults
def test_a_server_that_dies_and_comes_back_finds_the_same_attempts(
    watch: Callable[..., AbstractContextManager[Deployment]], fleet_settings: dict[str, str]
) -> None:
    with postgres_cluster() as cluster, ExitStack() as servers:
        server = servers.enter_context(cluster.served())
        settings = {**fleet_settings, "TUNESMITH_DATABASE_URL": server.create_database("tunesmith")}
        with watch(**settings) as service:
            api = service.start_api()
            worker = service.start_worker("--slots", "2", **unhurried())
            endless, ending = two_jobs_in_training(service)
            # PostgreSQL's immediate stop: no farewell to clients, and recovery at the next start.
            os.kill(server.pid, signal.SIGQUIT)
            servers.close()
            codes: list[int] = []
            keys = asked(service, endless, DOWN_SECONDS, codes)
            assert set(codes) == {503}, codes
            assert trains_on(worker, endless)
            servers.enter_context(cluster.served())
            wait_until(lambda: service.http.get("/readyz").status_code == httpx.codes.OK, api)
            ends_well(service, endless, ending)
            run_once_each(service, keys[:3])
            assert [len(worker.training_pids_of(job)) for job in (endless, ending)] == [1, 1]
            assert "Traceback" not in api.log


@pytest.mark.faults
def test_a_server_that_stays_away_ends_training_with_a_checkpoint_that_is_recorded_when_it_is_back(
    watch: Callable[..., AbstractContextManager[Deployment]], fleet_settings: dict[str, str]
) -> None:
    with postgres_cluster() as cluster, ExitStack() as servers:
        server = servers.enter_context(cluster.served())
        settings = {
            **fleet_settings,
            "TUNESMITH_DATABASE_URL": server.create_database("tunesmith"),
            "TUNESMITH_DATABASE_PATIENCE_SECONDS": "4",
        }
        with watch(**settings) as service:
            service.start_api()
            worker = service.start_worker(**unhurried())
            body = spec(
                training={"max_steps": 10_000_000, "logging_steps": 100},
                data={"eval": None},
                checkpoints={"strategy": "none"},
            )
            job = service.client.post("/v1/jobs", body)["id"]
            before = service.wait_for(job, lambda seen: bool(seen["progress"]) and seen["progress"]["step"] > 30)
            pid = worker.training_pid
            servers.close()
            deadline = time.monotonic() + 60
            while is_alive(pid):
                assert time.monotonic() < deadline, worker.log[-3000:]
                time.sleep(0.1)
            servers.enter_context(cluster.served())
            again = service.wait_for(job, lambda seen: seen["attempt"] == 2 and bool(seen["progress"]), 90)
            assert (again["failures"], again["workers_lost"]) == (0, 0), again
            checkpoints = service.client.get(f"/v1/jobs/{job}/checkpoints")["data"]
            assert checkpoints, "what was learned until then is lost"
            assert checkpoints[-1]["step"] > before["progress"]["step"]
            service.client.post(f"/v1/jobs/{job}/cancel")
            assert service.wait_for_end(job)["status"] == "cancelled"


@pytest.mark.faults
def test_a_sqlite_file_that_another_process_locks_makes_requests_wait_and_loses_nothing(local: Deployment) -> None:
    api = local.start_api()
    worker = local.start_worker("--slots", "2", **unhurried())
    endless, ending = two_jobs_in_training(local)
    file = str(make_url(local.database_url).database)
    answers: list[httpx.Response] = []

    def post() -> None:
        with local.http as http:
            answers.append(http.post("/v1/jobs", json=SHORT, headers={"idempotency-key": uuid4().hex}))

    holder = subprocess.Popen([sys.executable, "-c", HOLD, file, str(LOCKED_SECONDS)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with sqlite3.connect(file, timeout=0) as probe, pytest.raises(sqlite3.OperationalError, match="locked"):
        probe.execute("BEGIN IMMEDIATE")
    posts = [threading.Thread(target=post) for _ in range(4)]
    for thread in posts:
        thread.start()
    reads = _reads_while(local, endless, holder)
    for thread in posts:
        thread.join()
    assert holder.wait() == 0
    holder.stdout.close()
    assert reads == {200}, "reading waited for a writer"
    assert {answer.status_code for answer in answers} <= {201, 503}, [answer.text for answer in answers]
    assert trains_on(worker, endless)
    ends_well(local, endless, ending)
    for answer in answers:
        if answer.status_code == httpx.codes.CREATED:
            assert local.wait_for_end(answer.json()["id"])["status"] == "succeeded"
    assert "Traceback" not in api.log


def _reads_while(service: Deployment, job_id: str, holder: "subprocess.Popen[bytes]") -> set[int]:
    codes = set()
    with service.http as http:
        while holder.poll() is None:
            codes.add(http.get(f"/v1/jobs/{job_id}", timeout=3).status_code)
            time.sleep(0.5)
    return codes
