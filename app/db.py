"""Engine, sessions and the database clock. Only this module knows the differences between SQLite and PostgreSQL."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from psycopg.pq import Conninfo
from sqlalchemy import Boolean, ColumnElement, Connection, Double, Engine, Select, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.functions import FunctionElement

DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)
"""The errors of a database that is temporarily unavailable: gone, restarting, read-only, or out of connections."""

BUSY_TIMEOUT_SECONDS = 15
STATEMENT_TIMEOUT_SECONDS = 30
IDLE_IN_TRANSACTION_SECONDS = 10
"""A worker that is frozen in the middle of a transaction locks its job's row.

Until this timeout, no other worker can get the job.
"""
POSTGRESQL = {
    "connect_timeout": 5,
    # A server that disappears without closing its connections is noticed within about 20 s instead of hours.
    "tcp_user_timeout": 20_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
READ_ONLY = "tunesmith_read_only"

Item = TypeVar("Item")


class db_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """The database's clock, in seconds since 1970 as a double. Every lease is measured by it."""

    type = Double[float]()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _now_on_postgresql(element: db_now, compiler: Any, **options: Any) -> str:
    return "(extract(epoch from clock_timestamp())::double precision)"


@compiles(db_now, "sqlite")
def _now_on_sqlite(element: db_now, compiler: Any, **options: Any) -> str:
    # unixepoch('subsec') is NULL before SQLite 3.42.
    return "((julianday('now') - 2440587.5) * 86400.0)"


class json_pairs(FunctionElement[Any]):  # noqa: N801 - reads as the SQL function that it is
    """The pairs of a JSON object as rows of key and value.

    Not a path into the document: SQLite finds no path whose key it must unescape first, such as "é".
    """

    name = "pairs"
    inherit_cache = True


@compiles(json_pairs, "postgresql")
def _pairs_on_postgresql(element: json_pairs, compiler: Any, **options: Any) -> str:
    return f"jsonb_each_text({compiler.process(element.clauses, **options)})"


@compiles(json_pairs, "sqlite")
def _pairs_on_sqlite(element: json_pairs, compiler: Any, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


class json_within(FunctionElement[bool]):  # noqa: N801 - reads as the SQL function that it is
    """Whether each text of the first JSON array is in the second. Neither may be NULL."""

    type = Boolean()
    name = "within"
    inherit_cache = True


@compiles(json_within, "postgresql")
def _within_on_postgresql(element: json_within, compiler: Any, **options: Any) -> str:
    items, container = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({items} <@ {container})"


@compiles(json_within, "sqlite")
def _within_on_sqlite(element: json_within, compiler: Any, **options: Any) -> str:
    items, container = (compiler.process(clause, **options) for clause in element.clauses)
    # Both are SQL that SQLAlchemy has compiled, with bound parameters.
    inside = f"SELECT value FROM json_each({container})"  # noqa: S608
    return f"(NOT EXISTS (SELECT 1 FROM json_each({items}) AS item WHERE item.value NOT IN ({inside})))"  # noqa: S608


def now() -> ColumnElement[float]:
    """The database's clock as a column expression."""
    return db_now()


def page(session: Session, query: Select[Item], limit: int) -> tuple[list[Item], bool]:
    """At most `limit` results of an ordered query, and whether there are more."""
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


class Database:
    """One engine and its two kinds of session.

    A write session takes SQLite's write lock at once (BEGIN IMMEDIATE), so that it waits instead of
    failing half-way; a read session never waits for a writer.
    """

    def __init__(self, url: str, *, pool_size: int = 20, lock_seconds: float | None = None) -> None:
        """`lock_seconds` limits how long a statement waits for a lock of PostgreSQL. None waits up to the statement timeout."""
        self.engine = _engine(url, pool_size, lock_seconds)
        self._write = sessionmaker(self.engine, expire_on_commit=False)
        self._read = sessionmaker(self.engine.execution_options(**{READ_ONLY: True}), expire_on_commit=False)

    @contextmanager
    def write(self) -> Generator[Session]:
        """A unit of work: committed at the end, rolled back on any exception."""
        with self._write.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Generator[Session]:
        """A session for reading only."""
        with self._read() as session:
            yield session

    def check(self) -> None:
        """Check that the database answers. Raises sqlalchemy.exc.OperationalError."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _engine(url: str, pool_size: int, lock_seconds: float | None) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=pool_size,
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args={**_libpq_environment(), **POSTGRESQL, "options": _options(lock_seconds)},
    )


def _options(lock_seconds: float | None) -> str:
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS * 1000} "
    # Its estimates of recursive queries are high, and compiling them takes 50 ms where running them takes 3.
    options += "-c jit=off "
    options += f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_SECONDS * 1000}"
    return options if lock_seconds is None else f"{options} -c lock_timeout={round(lock_seconds * 1000)}"


def _libpq_environment() -> dict[str, str]:
    """The PG* variables that libpq would read at each connection.

    They are read now, because a worker removes them from its environment.
    """
    options = Conninfo.get_defaults()
    return {
        option.keyword.decode(): os.environ[option.envvar.decode()]
        for option in options
        if option.envvar is not None and os.environ.get(option.envvar.decode())
    }


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    # The driver must begin no transaction of its own: _begin_sqlite chooses the kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
