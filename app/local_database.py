"""The database, for commands that work on it directly instead of through the service."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.orm import Session

from app.db import Database
from app.explain import CannotRun
from app.migrate import is_current
from app.private_files import keep_private
from app.settings import Settings


@contextmanager
def opened(settings: Settings) -> Generator[Database]:
    """The database of these settings, closed at the end."""
    keep_private(settings)
    database = Database(settings.database())
    try:
        yield database
    finally:
        database.close()


@contextmanager
def migrated(settings: Settings) -> Generator[Session]:
    """A unit of work on a database with this version's schema. Raises CannotRun if it has another schema, or none."""
    with opened(settings) as database:
        if not (_is_there(database) and is_current(database)):
            raise CannotRun(
                "the database does not have this version's schema: run `tunesmith migrate` (or `tunesmith up`)"
            )
        with database.write() as session:
            yield session


def _is_there(database: Database) -> bool:
    # Opening SQLite would create the file, and only `migrate` may do that.
    url = database.engine.url
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()
