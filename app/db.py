"""Engine, sessions and the database clock. Only this module knows the differences between SQLite and PostgreSQL."""

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from psycopg.pq import Conninfo
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    CursorResult,
    Double,
    Engine,
    Row,
    Select,
    UpdateBase,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool
from sqlalchemy.sql.compiler import SQLCompiler
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
GLANCES = 16
"""Connections of one process to PostgreSQL for short reads, beside those of its transactions."""

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


def now() -> ColumnElement[float]:
    """The database's clock as a column expression."""
    return db_now()


def page(session: Session, query: Select[Item], limit: int) -> tuple[list[Item], bool]:
    """At most `limit` results of an ordered query, and whether there are more."""
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


class Prepared:
    """A statement that is compiled once, because compiling it for each request takes longer than running it.

    It takes and gives what the database's driver takes and gives: no value is converted. It does not flush the session.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]] | UpdateBase) -> None:
        self._statement = statement
        self._compiled: dict[str, SQLCompiler] = {}

    def rows(self, session: Session, **values: Any) -> Sequence[Row[*tuple[Any, ...]]]:
        """Run it with these values of its parameters, and return what it selects or returns."""
        return self._execute(session, values).all()

    def run(self, session: Session, **values: Any) -> None:
        """Run a statement that returns no rows."""
        self._execute(session, values)

    def _execute(self, session: Session, values: dict[str, Any]) -> CursorResult[Any]:
        connection = session.connection()
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = self._statement.compile(dialect=dialect)
        parameters: Any = compiled.construct_params(values)
        if dialect.positional:
            parameters = tuple(parameters[name] for name in compiled.positiontup or ())
        return connection.exec_driver_sql(str(compiled), parameters)


class Database:
    """One engine and its three kinds of session.

    A write session takes SQLite's write lock at once (BEGIN IMMEDIATE), so that it waits instead of
    failing half-way; a read session never waits for a writer. A glance is a read session that waits for nothing at all.
    """

    def __init__(self, url: str, *, pool_size: int = 20, lock_seconds: float | None = None) -> None:
        """`lock_seconds` limits how long a statement waits for a lock of PostgreSQL. None waits up to the statement timeout."""
        self.engine = _engine(url, pool_size, lock_seconds)
        self._write = sessionmaker(self.engine, expire_on_commit=False)
        self._read = sessionmaker(self.engine.execution_options(**{READ_ONLY: True}), expire_on_commit=False)
        self._turns = threading.Lock()
        self._glances = _glances(self.engine.url)

    @property
    def is_local(self) -> bool:
        """Whether the database is a file on this machine, which is read faster than a thread is woken."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self) -> Generator[Session]:
        """A unit of work: committed at the end, rolled back on any exception."""
        with self._turn(), self._write.begin() as session:
            yield session

    @contextmanager
    def _turn(self) -> Generator[None]:
        # SQLite has one writer at a time, and lets the others sleep for ever longer. A lock wakes the next thread at once.
        # Without a turn, SQLite says what is wrong.
        has_turn = self.is_local and self._turns.acquire(timeout=BUSY_TIMEOUT_SECONDS)
        try:
            yield
        finally:
            if has_turn:
                self._turns.release()

    @contextmanager
    def read(self) -> Generator[Session]:
        """A session for reading only."""
        with self._read() as session:
            yield session

    async def glance(self, query: Callable[[Session], Item]) -> Item:
        """Run a short query on the event loop, because waking a thread takes longer. No transaction surrounds it.

        Each of its statements sees the database as it is then. Raises sqlalchemy.exc.OperationalError where another session
        would wait for a lock, or would connect again.
        """
        if isinstance(self._glances, AsyncEngine):
            async with AsyncSession(self._glances, expire_on_commit=False) as session:
                return await session.run_sync(query)
        with Session(self._glances, expire_on_commit=False) as session:
            return query(session)

    async def close_glances(self) -> None:
        """Close the connections of `glance`. On the event loop that used them, before `close`."""
        if isinstance(self._glances, AsyncEngine):
            await self._glances.dispose()
        else:
            self._glances.dispose()

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


def _glances(url: URL) -> Engine | AsyncEngine:
    # A transaction takes two statements more than the query, and a test of the connection takes a third.
    quick: dict[str, Any] = {"pool_reset_on_return": None, "isolation_level": "AUTOCOMMIT"}
    if url.get_backend_name() != "sqlite":
        return create_async_engine(
            url,
            pool_size=GLANCES,
            # Connections beyond the size would be closed after each query.
            max_overflow=0,
            pool_timeout=10,
            connect_args={**_libpq_environment(), **POSTGRESQL, "options": _options(None)},
            **quick,
        )
    # A file is read without waiting for anything.
    engine = create_engine(url, poolclass=StaticPool, connect_args={"timeout": 0, "check_same_thread": False}, **quick)
    event.listen(engine, "connect", _forbid_writes)
    return engine


def _forbid_writes(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


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
