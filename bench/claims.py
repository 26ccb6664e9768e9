"""How long a claim takes, by how many jobs of how many projects wait, against the bare SQL of a queue.

    ours    one claim in a transaction: order by priority, then fewer running jobs of the project, then the longest wait
    bare    one UPDATE of the first row by priority and time, of a table of these columns with an index on them

On SQLite and on PostgreSQL, with one connection, and then with eight processes at once. `--large` adds a million jobs, of 30
projects only.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from servers import postgres_server  # noqa: E402 - found by the line above

from app import auth, migrate  # noqa: E402
from app.db import Database  # noqa: E402
from app.identifiers import new_id  # noqa: E402
from app.jobs import lifecycle  # noqa: E402
from app.jobs.needs import needs_of  # noqa: E402
from app.jobs.tables import Job  # noqa: E402
from app.specs.features import known_features  # noqa: E402

SIZES, LARGE = (10_000, 100_000), 1_000_000
PROJECTS = (1, 30, 1000)
CLAIMS = 60
WORKERS, TOGETHER_SECONDS = 8, 2.0
ROWS = 10_000
"""Rows of one INSERT."""
FEATURES = ["training.engine=trainer", "training.warmup_steps"]


def main() -> None:
    """Print the median and the slowest tenth of both, in milliseconds, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    cases = [(size, projects) for size in SIZES for projects in PROJECTS]
    cases += [(LARGE, 30)] if parser.parse_args().large else []
    with tempfile.TemporaryDirectory() as name, postgres_server() as postgres:
        for size, projects in cases:
            for url in (f"sqlite:///{name}/{size}-{projects}.db", postgres.create_database(f"c{size}x{projects}")):
                _compare(Database(url), size, projects)


def _compare(database: Database, size: int, projects: int) -> None:
    migrate.upgrade(database)
    _fill(database, size, projects)
    mine, other = (_times(database, claim) for claim in (_ours, _bare))
    kind = database.engine.dialect.name
    print(
        f"{kind:10} {size:>9,} jobs of {projects:>5,} projects: ours {mine[0]:6.2f} ms (p90 {mine[1]:.2f}), "
        f"bare {other[0]:6.2f} ms (p90 {other[1]:.2f}), bare / ours {other[0] / mine[0]:.2f}"
    )
    url = database.engine.url.render_as_string(hide_password=False)
    database.close()
    many = [_together(url, name) for name in ("ours", "bare")]
    print(
        f"{'':10} {WORKERS} processes at once: ours {many[0]:.0f} claims/s, bare {many[1]:.0f}, ours / bare {many[0] / many[1]:.2f}",
        flush=True,
    )


def _ours(session: Any) -> Any:
    return lifecycle.claim(session, "wrk_bench", ("cpu", "any"), 60, KNOWN)


def _bare(session: Any) -> Any:
    return session.execute(BARE[session.get_bind().dialect.name]).scalar()


def _together(url: str, name: str) -> float:
    """Claims a second of several processes, each with its own connection."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.map(_claim_for, [(url, name, 0.2)] * WORKERS, chunksize=1)
        return sum(pool.map(_claim_for, [(url, name, TOGETHER_SECONDS)] * WORKERS, chunksize=1)) / TOGETHER_SECONDS


def _claim_for(work: tuple[str, str, float]) -> int:
    url, name, seconds = work
    database = Database(url)
    claim = {"ours": _ours, "bare": _bare}[name]
    claimed, deadline = 0, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        with database.write() as session:
            claimed += claim(session) is not None
    database.close()
    return claimed


def _times(database: Database, claim: Callable[[Any], Any]) -> tuple[float, float]:
    seconds: list[float] = []
    for _ in range(CLAIMS):
        began = time.perf_counter()
        with database.write() as session:
            if claim(session) is None:
                raise SystemExit("a claim found no job")
        seconds.append(1000 * (time.perf_counter() - began))
    return statistics.median(seconds), statistics.quantiles(seconds, n=10)[-1]


def _fill(database: Database, size: int, projects: int) -> None:
    with database.write() as session:
        owners = [auth.ensure_project(session, f"p{number}").id for number in range(projects)]
    fixed = {
        "task": "t",
        "user_metadata": {},
        "spec": {},
        "timeout_seconds": 60,
        "body_sha256": "0" * 64,
        "queue": "cpu",
        "features": FEATURES,
        "needs": needs_of("cpu", "trainer", FEATURES),
        "available_at": 0.0,
    }
    for begin in range(0, size, ROWS):
        rows = [
            {"id": new_id("job"), "project_id": owners[n % projects], "priority": n % 3, "queued_at": float(n), **fixed}
            for n in range(begin, min(size, begin + ROWS))
        ]
        with database.write() as session:
            session.execute(insert(Job), rows)
    with database.write() as session:
        session.execute(text("CREATE TABLE bare AS SELECT id, status, priority, queued_at FROM jobs"))
        session.execute(text("CREATE UNIQUE INDEX bare_id ON bare (id)"))
        session.execute(text("CREATE INDEX bare_order ON bare (priority DESC, queued_at) WHERE status = 'queued'"))
        session.execute(text("ANALYZE"))


KNOWN = known_features()
_BARE = (
    "UPDATE bare SET status = 'running' WHERE id = (SELECT id FROM bare WHERE status = 'queued' "
    "ORDER BY priority DESC, queued_at LIMIT 1{lock}) RETURNING id"
)
BARE = {"sqlite": text(_BARE.format(lock="")), "postgresql": text(_BARE.format(lock=" FOR UPDATE SKIP LOCKED"))}


if __name__ == "__main__":
    main()
