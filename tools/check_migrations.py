"""Fails if the migrations do not lead to the tables of app/schema.py, or not back to an empty database (SQLite).

`tests/integration/test_migrations.py` checks the same on PostgreSQL.
"""

import sys
import tempfile
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from app import migrate
from app.db import Database
from app.schema import metadata


def main() -> None:
    """Upgrade, compare, downgrade, and check what is left."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'check.db'}")
        migrate.upgrade(database)
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            drift = compare_metadata(context, metadata)
        migrate.downgrade(database, "base")
        left = set(inspect(database.engine).get_table_names()) - {"alembic_version"}
        database.close()
    if drift or left:
        sys.exit(f"migrations: drift {drift}, left after downgrade {left}")
    print("migrations: upgrade, no drift, downgrade")


if __name__ == "__main__":
    main()
