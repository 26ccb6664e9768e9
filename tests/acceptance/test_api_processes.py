"""Several API processes behind one address are one service: any of them may die."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from deployment import Process, deployment, is_alive, wait_until
from servers import PostgresServer
from tiny import spec


def children(process: Process) -> list[int]:
    listed = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_jobs_are_posted_once_and_found_while_processes_are_killed(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    settings: dict[str, str] = {}
    if database == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        settings["TUNESMITH_DATABASE_URL"] = server.create_database(f"t{time.time_ns()}")
    with deployment(tmp_path / "service", **settings) as service:
        apis = service.start_apis(2)
        wait_until(lambda: len(children(apis)) == 2, apis)
        first = children(apis)

        def post(number: int) -> str:
            headers = {"idempotency-key": f"k{number}", "authorization": f"Bearer {service.key}"}
            while True:
                try:
                    answer = httpx.post(f"{service.url}/v1/jobs", json=spec(), headers=headers, timeout=60)
                except httpx.TransportError:
                    continue
                assert answer.status_code in (200, 201), answer.text
                return str(answer.json()["id"])

        with ThreadPoolExecutor(4) as pool:
            posted = pool.map(post, range(60))
            os.kill(first[0], signal.SIGKILL)
            ids = list(posted)
        assert len(set(ids)) == 60
        wait_until(lambda: len(children(apis)) == 2 and children(apis) != first, apis)
        with service.http as http:
            listed = http.get("/v1/jobs", params={"limit": 100}).json()["data"]
        assert {job["id"] for job in listed} == set(ids)
        created = [job["created_at"] for job in listed]
        assert created == sorted(created, reverse=True)
        running = children(apis)
        assert apis.stop() == 0
        assert not any(is_alive(pid) for pid in running)


def test_sweeps_are_done_once_however_many_processes_run(tmp_path: Path) -> None:
    with deployment(tmp_path / "service", TUNESMITH_ENGINE_SECONDS="0.1") as service:
        apis = service.start_apis(3)
        with service.http as http:
            job = http.post("/v1/jobs", json=spec()).json()["id"]
            wait_until(lambda: "no live worker could run this job" in apis.log, apis)
            time.sleep(2)
            events = http.get(f"/v1/jobs/{job}/events", params={"type": "note"}).json()["data"]
        assert len(events) == 1
        assert apis.log.count("no live worker could run this job") == 1
