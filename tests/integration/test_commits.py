"""A worker without a broker learns at once of what another process commits."""

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from app.commits import notify
from app.db import Database
from worker.arrivals import Arrivals


@pytest.fixture
def arrivals(database: Database, database_url: str) -> Iterator[Arrivals]:
    stopping = threading.Event()
    own = Database(database_url)
    watching = Arrivals(own, stopping)
    watching.start()
    yield watching
    stopping.set()
    watching.join(5)
    assert not watching.is_alive()
    own.close()


def commit(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE workers SET pid = pid"))
        session.execute(text("CREATE TABLE something_new (id INTEGER)"))
    notify(database)


def test_a_commit_wakes_who_waits(database: Database, arrivals: Arrivals) -> None:
    time.sleep(1)
    count = arrivals.count
    threading.Timer(0.3, commit, [database]).start()
    began = time.monotonic()
    arrivals.wait(count, 30)
    assert arrivals.count > count
    assert 0.2 < time.monotonic() - began < 10


def test_a_commit_between_looking_and_waiting_is_not_missed(database: Database, arrivals: Arrivals) -> None:
    time.sleep(1)
    count = arrivals.count
    commit(database)
    deadline = time.monotonic() + 10
    while arrivals.count == count and time.monotonic() < deadline:
        time.sleep(0.05)
    began = time.monotonic()
    arrivals.wait(count, 30)
    assert time.monotonic() - began < 5


def test_without_a_commit_the_wait_ends_in_time(arrivals: Arrivals) -> None:
    time.sleep(1)
    began = time.monotonic()
    arrivals.wait(arrivals.count, 0.3)
    assert time.monotonic() - began >= 0.25
