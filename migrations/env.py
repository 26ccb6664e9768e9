"""Alembic's entry: runs on the connection that `app.migrate` hands over, or on the settings' database."""

from alembic import context
from sqlalchemy import Connection

from app.db import Database
from app.migrate import schema_connection
from app.schema import metadata
from app.settings import Settings


def migrate(connection: Connection) -> None:
    """Run the migrations; the caller holds the transaction."""
    is_sqlite = connection.dialect.name == "sqlite"
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=is_sqlite, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    migrate(handed_over)
else:
    database = Database(Settings().database())
    with schema_connection(database) as own:
        migrate(own)
    database.close()
