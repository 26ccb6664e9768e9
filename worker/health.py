"""`python -m worker.health`: exits with 0 when a worker of this host was heard within its lease, else with 1."""

import socket
import sys

from app.db import Database
from app.settings import Settings
from app.workers import queries


def main() -> None:
    """Look for this host's workers in the database."""
    settings = Settings()
    database = Database(settings.database(), pool_size=1)
    with database.read() as session:
        alive = queries.alive(session, silent_for=settings.lease_seconds)
    database.close()
    host = socket.gethostname()
    if not any(worker.host == host for worker in alive):
        sys.exit(f"no worker of {host} was heard within {settings.lease_seconds:.0f} s")


if __name__ == "__main__":
    main()
