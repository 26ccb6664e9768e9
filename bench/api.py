"""Requests per second of the API with a full database, against bare routes on the same database, in the same run.

    ours    one API process, with keys, in the shape of the documentation
    peer    one process of FastAPI routes that run the same query with the plain driver (`bench/peers/bare_api.py`)

`--jobs N` sets the number of jobs (a tenth of them queued, 20 events each); `--large` is a million. `--database sqlite` or
`postgresql` measures only one of them.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from api_process import API, serving
from load import Request, load
from sqlalchemy import insert, text

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from servers import postgres_server  # noqa: E402 - found by the line above
from tiny import spec  # noqa: E402

from app import auth, migrate  # noqa: E402
from app.db import Database  # noqa: E402
from app.identifiers import new_id  # noqa: E402
from app.jobs.needs import needs_of  # noqa: E402
from app.jobs.tables import Event, Job  # noqa: E402
from app.jobs.views import JobView  # noqa: E402
from app.specs import JobSpec  # noqa: E402
from app.workers.tables import Worker  # noqa: E402

JOBS, LARGE = 100_000, 1_000_000
PROJECTS = 30
EVENTS = 20
CONNECTIONS = 16
SECONDS = 4.0
ROWS = 10_000
FEATURES = ["training.engine=trainer", "training.warmup_steps"]
SUMMARY = ",".join(
    name.replace("_json", "").replace("metadata", "user_metadata")
    for name in JobView._fields
    if name not in {"at", "spec_json", "resolved_json", "preflight_json", "features"}
)


@dataclass(frozen=True)
class Filled:
    """A database with jobs."""

    key: str
    project: str
    queued: list[str]
    ended: list[str]


def main() -> None:
    """Print a line for each request: ours, the peer, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--database", choices=["sqlite", "postgresql"])
    parser.add_argument("--only", default="", help="Only requests whose name contains this.")
    arguments = parser.parse_args()
    jobs = LARGE if arguments.large else arguments.jobs
    with tempfile.TemporaryDirectory() as name:
        if arguments.database != "postgresql":
            _measure(f"sqlite:///{name}/jobs.db", f"{name}/jobs.db", Path(name), jobs, arguments.only)
        if arguments.database != "sqlite":
            with postgres_server() as server:
                url = server.create_database("bench")
                _measure(url, url.replace("+psycopg", ""), Path(name), jobs, arguments.only)


def _measure(url: str, plain: str, folder: Path, jobs: int, only: str) -> None:
    database = Database(url)
    migrate.upgrade(database)
    began = time.monotonic()
    filled = fill(database, jobs)
    kind = database.engine.dialect.name
    database.close()
    print(f"{kind}: {jobs:,} jobs, {jobs * EVENTS:,} events, filled in {time.monotonic() - began:.0f} s", flush=True)
    settings = {"TUNESMITH_DATA_DIR": str(folder / kind), "TUNESMITH_DATABASE_URL": url}
    bare = (sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning", "bench.peers.bare_api:app")
    with serving(API, settings) as ours, serving((*bare, "--port"), {"DATABASE": plain}) as peer:
        for name, mine, other in _requests(filled):
            if only in name:
                _compare(name, ours.url, mine, peer.url, other)


def _compare(name: str, ours: str, mine: list[Request], peer: str, other: list[Request]) -> None:
    load(ours, mine, connections=2, seconds=0.5)
    ran = load(ours, mine, connections=CONNECTIONS, seconds=SECONDS)
    line = f"  {name:34} {ran.per_second:7.0f}/s p50 {ran.p50_ms:6.1f} p99 {ran.p99_ms:6.1f} ms {ran.bytes:8,} B"
    if other:
        load(peer, other, connections=2, seconds=0.5)
        bare = load(peer, other, connections=CONNECTIONS, seconds=SECONDS)
        line += f" | peer {bare.per_second:7.0f}/s p99 {bare.p99_ms:6.1f} ms {bare.bytes:7,} B | {ran.per_second / bare.per_second:.2f}"
    print(line, flush=True)


def _requests(filled: Filled) -> Iterator[tuple[str, list[Request], list[Request]]]:
    headers = {"authorization": f"Bearer {filled.key}"}

    def ours(*paths: str) -> list[Request]:
        return [Request(path, headers=headers) for path in paths]

    def rows(table: str, order: str, columns: str = SUMMARY, **filters: Any) -> list[Request]:
        query = urlencode({"columns": columns, "order": order, **filters})
        return [Request(f"/rows/{table}?{query}")]

    newest = "created_at DESC, id DESC"
    mine = {"project_id": filled.project}
    for kind, ids in (("a finished job", filled.ended), ("a queued job", filled.queued)):
        chosen = random.Random(1).sample(ids, min(200, len(ids)))
        yield f"GET {kind}", ours(*(f"/v1/jobs/{one}" for one in chosen)), [Request(f"/job/{one}") for one in chosen]
    yield "list 20", ours("/v1/jobs"), rows("jobs", newest, **mine)
    for name, value in (
        ("status", "succeeded"),
        ("status", "failed"),
        ("task", "t"),
        ("task", "u"),
        ("name", "n7"),
        ("name", "none"),
    ):
        yield f"list {name}={value}", ours(f"/v1/jobs?{name}={value}"), rows("jobs", newest, **mine, **{name: value})
    for value in ("search", "none"):
        query = quote("metadata[team]")
        pair = {"m.project_id": filled.project, "m.key": "team", "m.value": value}
        columns = ",".join(f"jobs.{name}" for name in SUMMARY.split(","))
        yield (
            f"list metadata[team]={value}",
            ours(f"/v1/jobs?{query}={value}"),
            rows("pairs", "m.created_at DESC, m.job_id DESC", columns, **pair),
        )
    yield (
        "list after, status=queued",
        ours(f"/v1/jobs?status=queued&after={filled.queued[-40]}"),
        rows("jobs", newest, **mine, status="queued"),
    )
    one = filled.ended[0]
    yield "events, 20", ours(f"/v1/jobs/{one}/events?limit=20"), rows("events", "seq", "*", job_id=one)
    yield "metrics", ours(f"/v1/jobs/{one}/metrics"), rows("events", "seq", "*", job_id=one)
    yield "readyz", ours("/readyz"), rows("jobs", newest, **mine)
    yield "prometheus", ours("/metrics"), []
    body = json.dumps(spec()).encode()
    yield "POST a job (48 + 12 rows)", [Request("/v1/jobs", "POST", headers, body)], []


def fill(database: Database, size: int) -> Filled:
    """Fill a migrated database with jobs of several projects."""
    with database.write() as session:
        owners = [auth.ensure_project(session, f"p{number}").id for number in range(PROJECTS)]
        key = auth.create_key(session, owners[0], "bench")
    stored = JobSpec.model_validate(spec()).model_dump(mode="json")
    fixed: dict[str, Any] = {
        "timeout_seconds": 60, "body_sha256": "0" * 64, "queue": "cpu", "priority": 0, "available_at": 0.0,
        "features": FEATURES, "needs": needs_of("cpu", "trainer", FEATURES), "event_seq": EVENTS, "spec": stored,
        "resolved": {"device": "cpu"}, "preflight": {"data": {"rows": {"train": 48}}},
        "metrics": {"eval_accuracy": 0.9}, "progress": {"step": 9, "of": 9, "epoch": 1.0},
    }  # fmt: skip
    queued: list[str] = []
    ended: list[str] = []
    for begin in range(0, size, ROWS):
        jobs: list[dict[str, Any]] = []
        for number in range(begin, min(size, begin + ROWS)):
            waits = number % 10 == 9
            owner = number // 10 % PROJECTS
            job_id = new_id("job")
            if owner == 0:
                (queued if waits else ended).append(job_id)
            jobs.append(
                {
                    "id": job_id, "project_id": owners[owner], "status": "queued" if waits else "succeeded",
                    "task": "t" if number % 2 else "v", "name": f"n{number % 1000}",
                    "user_metadata": {"team": "search" if number % 3 else "ads", "run": str(number)},
                    "queued_at": float(number), "created_at": float(number), **fixed,
                }
            )  # fmt: skip
        with database.write() as session:
            session.execute(insert(Job), jobs)
            events = [
                {
                    "job_id": job["id"], "seq": seq, "type": "metric" if seq % 2 else "progress", "attempt": 1,
                    "data": {"step": seq, "epoch": 0.5, "values": {"loss": 0.5, "learning_rate": 1e-5}},
                    "created_at": float(seq),
                }
                for job in jobs for seq in range(1, EVENTS + 1)
            ]  # fmt: skip
            session.execute(insert(Event), events)
    with database.write() as session:
        # With a worker that is alive for as long as the run takes, the sweeper has no job to explain.
        session.add(
            Worker(
                id="wrk_bench", host="h", pid=1, version="1", queues="cpu", engines="trainer", features=None, slots=1,
                hardware={"gpus": []}, last_seen_at=time.time() + 86_400,
            )
        )  # fmt: skip
        session.execute(text("ANALYZE"))
    return Filled(key, owners[0], queued, ended)


if __name__ == "__main__":
    main()
