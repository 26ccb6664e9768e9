"""Learns at once that another process has committed, without a broker. Whoever waits must also poll: a hint may be lost.

SQLite        PRAGMA data_version changes with each commit of another connection (https://sqlite.org/pragma.html)
PostgreSQL    NOTIFY after a commit, LISTEN on a connection of its own (https://www.postgresql.org/docs/current/sql-notify.html)
"""

import logging
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import psycopg
from sqlalchemy import text

from app.db import DATABASE_AWAY, Database

log = logging.getLogger(__name__)

COMMITS_AWAY = (*DATABASE_AWAY, psycopg.Error, sqlite3.Error)
"""The errors of a connection that learns of no more commits."""
CHANNEL = "tunesmith_jobs"
WATCH_SECONDS = 0.05
"""How often SQLite is asked. One answer takes some microseconds."""


class Commits(Protocol):
    """An open connection that learns of commits."""

    def wait(self) -> bool:
        """Wait for a moment. True if there was a commit. Raises one of COMMITS_AWAY."""
        ...


@contextmanager
def commits(database: Database) -> Generator[Commits]:
    """The commits of other processes from here on. Raises one of COMMITS_AWAY."""
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if database.engine.dialect.name == "postgresql":
            # It listens until it is closed, so it does not go back to the pool.
            connection.detach()
            driver.autocommit = True
            yield _Notifications(driver)
        else:
            yield _Versions(driver)


def notify(database: Database) -> None:
    """Announce a commit to those that listen on PostgreSQL. SQLite needs no announcement. Never raises."""
    if database.engine.dialect.name != "postgresql":
        return
    try:
        with database.write() as session:
            session.execute(text(f"NOTIFY {CHANNEL}"))
    except DATABASE_AWAY as error:
        log.warning("the database does not answer, workers will find the job by polling: %s", error)


class _Versions:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._version = self._read()

    def wait(self) -> bool:
        time.sleep(WATCH_SECONDS)
        before, self._version = self._version, self._read()
        return self._version != before

    def _read(self) -> int:
        return cast("int", self._connection.execute("PRAGMA data_version").fetchone()[0])


class _Notifications:
    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection
        connection.execute(f"LISTEN {CHANNEL}")

    def wait(self) -> bool:
        return any(True for _ in self._connection.notifies(timeout=0.2, stop_after=1))
