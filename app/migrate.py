"""Migrates the schema to the newest version, and checks whether it is there."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.db import Database

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"
ADVISORY_LOCK = 7421196


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate up to a revision. Safe to run from several processes at once."""
    with schema_connection(database) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    """Migrate down to a revision; `base` is the empty database."""
    with schema_connection(database) as connection:
        command.downgrade(_config(connection), revision)


def is_current(database: Database) -> bool:
    """Whether the schema is the one this version was written for."""
    expected = ScriptDirectory.from_config(_config(None)).get_heads()
    with database.engine.connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) == set(expected)


@contextmanager
def schema_connection(database: Database) -> Generator[Connection]:
    """A connection for migrations: one transaction, one migrator at a time.

    SQLite's batch rebuilds drop the old table, so its foreign keys are off meanwhile, or ON DELETE would
    erase the children; that pragma is a no-op inside a transaction, hence the raw connection. Raises
    RuntimeError, and changes nothing, when a migration would leave rows without their parents.
    """
    with database.engine.connect() as connection:
        if connection.dialect.name != "sqlite":
            # A large table takes longer than any statement of a request may.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
            yield connection
            connection.commit()
            return
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA foreign_keys=OFF")
        try:
            yield connection
            if broken := connection.execute(text("PRAGMA foreign_key_check")).all():
                raise RuntimeError(f"the migration would leave rows without their parents: {broken[:5]}")
            connection.commit()
        finally:
            connection.rollback()
            cursor.execute("PRAGMA foreign_keys=ON")


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
