"""A database that does not answer for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine, text

from app.db import Database


@contextmanager
def away(database: Database) -> Iterator[None]:
    """Make the database refuse, as when it restarts; afterwards it is as before."""
    url = database.engine.url
    if url.get_backend_name() == "sqlite":
        with database.write() as session:
            session.execute(text("ALTER TABLE events RENAME TO events_away"))
        yield
        with database.write() as session:
            session.execute(text("ALTER TABLE events_away RENAME TO events"))
        return
    admin = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false'))
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": url.database}
        )
        yield
        connection.execute(text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true'))
    admin.dispose()
