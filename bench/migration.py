"""How long the migrations since 0008 take with a hundred thousand jobs and two million events, on both databases."""

import sys
import tempfile
import time

from api import ROOT, fill
from sqlalchemy import text

sys.path[:0] = [str(ROOT / "tests")]

from servers import postgres_server  # noqa: E402 - found by the line above

from app import migrate  # noqa: E402
from app.db import Database  # noqa: E402

JOBS = 100_000
BEFORE = "0008"


def main() -> None:
    """Print the seconds of each."""
    with tempfile.TemporaryDirectory() as name, postgres_server() as server:
        for url in (f"sqlite:///{name}/jobs.db", server.create_database("bench")):
            database = Database(url)
            migrate.upgrade(database)
            fill(database, JOBS)
            migrate.downgrade(database, BEFORE)
            began = time.perf_counter()
            migrate.upgrade(database)
            seconds = time.perf_counter() - began
            with database.read() as session:
                jobs = session.scalar(text("SELECT count(*) FROM jobs"))
                pairs = session.scalar(text("SELECT count(*) FROM job_metadata"))
            print(
                f"{database.engine.dialect.name}: {jobs:,} jobs, {pairs:,} pairs of metadata, {seconds:.1f} s",
                flush=True,
            )
            database.close()


if __name__ == "__main__":
    main()
