"""A thousand streams of fifty running jobs in one API process: how late an event comes, and the memory of a stream."""

import asyncio
import json
import statistics
import tempfile
import threading
import time
from urllib.parse import urlsplit

from api_process import API, serving
from sqlalchemy import insert

from app import auth, migrate
from app.db import Database
from app.identifiers import new_id
from app.jobs import events, lifecycle
from app.jobs.lifecycle import Lease
from app.jobs.tables import Job

WATCHERS, JOBS = 1000, 50
SECONDS = 20.0
PAUSE = 1.0
"""Between two events of a job."""


def main() -> None:
    """Print the lateness of events at the median and the 99th percentile, and the memory of the process before and with all streams."""
    with tempfile.TemporaryDirectory() as name:
        database = Database(f"sqlite:///{name}/tunesmith.db")
        migrate.upgrade(database)
        key, leases = _start_jobs(database)
        with serving(API, {"TUNESMITH_DATA_DIR": name}) as server:
            before = server.memory_bytes
            stop = threading.Event()
            worker = threading.Thread(target=_work, args=(database, leases, stop))
            late = asyncio.run(_watch(server.url, key, [lease.job_id for lease in leases], worker))
            memory = server.memory_bytes
            stop.set()
            worker.join()
        database.close()
    ordered = sorted(late)
    print(
        f"{WATCHERS} streams of {JOBS} jobs, {len(late):,} events: late by {statistics.median(late):.2f} s at the median, "
        f"{ordered[int(0.99 * len(ordered))]:.2f} s at p99; memory {before / 1e6:.0f} MB before, {memory / 1e6:.0f} MB with them, "
        f"{(memory - before) / WATCHERS / 1e3:.0f} kB a stream"
    )


def _start_jobs(database: Database) -> tuple[str, list[Lease]]:
    with database.write() as session:
        project = auth.ensure_project(session, "bench").id
        key = auth.create_key(session, project, "bench")
        jobs = [
            {
                "id": new_id("job"), "project_id": project, "task": "t", "user_metadata": {}, "priority": 0, "queue": "cpu",
                "spec": {}, "timeout_seconds": 9999, "body_sha256": "0" * 64, "features": ["training.engine=trainer"],
            }
            for _ in range(JOBS)
        ]  # fmt: skip
        session.execute(insert(Job), jobs)
    leases: list[Lease] = []
    for _ in range(JOBS):
        with database.write() as session:
            job = lifecycle.claim(session, "bench", ("cpu",), 9999)
            if job is None:
                raise SystemExit("a claim found no job")
            leases.append(Lease(job.id, job.attempt, "bench"))
    return key, leases


def _work(database: Database, leases: list[Lease], stop: threading.Event) -> None:
    step = 0
    while not stop.wait(PAUSE):
        step += 1
        for lease in leases:
            with database.write() as session:
                metric = events.reported("metric", {"step": step, "epoch": None, "values": {"sent": time.time()}})
                lifecycle.record(session, lease, [metric])


async def _watch(url: str, key: str, jobs: list[str], worker: threading.Thread) -> list[float]:
    address = urlsplit(url)
    late: list[float] = []
    opened = asyncio.Semaphore(50)

    async def watch(job: str) -> None:
        async with opened:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
            writer.write(f"{head}accept: text/event-stream\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
        deadline = time.monotonic() + SECONDS + 10
        try:
            while (left := deadline - time.monotonic()) > 0:
                line = await asyncio.wait_for(reader.readline(), left)
                if line.startswith(b"data: ") and b'"sent"' in line:
                    late.append(time.time() - json.loads(line[6:])["data"]["values"]["sent"])
        except TimeoutError:
            pass
        finally:
            writer.close()

    watching = [asyncio.create_task(watch(jobs[number % len(jobs)])) for number in range(WATCHERS)]
    await asyncio.sleep(10)
    worker.start()
    await asyncio.gather(*watching)
    return late


if __name__ == "__main__":
    main()
