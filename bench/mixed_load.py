"""Memory of one API process under a mixed load: reads of every kind, lists with specs, and posts, from 16 connections."""

import argparse
import json
import sys
import tempfile
import time

from api import CONNECTIONS, fill
from api_process import API, ROOT, serving
from load import Request, load

sys.path[:0] = [str(ROOT / "tests")]

from tiny import spec  # noqa: E402 - found by the line above

from app import migrate  # noqa: E402
from app.db import Database  # noqa: E402

JOBS = 20_000
BETWEEN = 30.0


def main() -> None:
    """Print the memory every half a minute, and its growth from the second to the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{name}/jobs.db"
        database = Database(url)
        migrate.upgrade(database)
        filled = fill(database, JOBS)
        database.close()
        headers = {"authorization": f"Bearer {filled.key}"}
        body = json.dumps(spec()).encode()
        paths = [f"/v1/jobs/{job}" for job in (*filled.ended[:20], *filled.queued[:20])]
        paths += [
            "/v1/jobs",
            "/v1/jobs?include=spec&limit=100",
            "/v1/jobs?name=n7",
            "/v1/jobs?status=queued",
            "/metrics",
            "/readyz",
        ]
        paths += [
            f"/v1/jobs/{job}/{part}"
            for job in filled.ended[:10]
            for part in ("events", "metrics", "logs", "checkpoints")
        ]
        requests = [Request(path, headers=headers) for path in paths]
        requests += [Request("/v1/jobs", "POST", headers, body)] * 4
        with serving(API, {"TUNESMITH_DATA_DIR": name, "TUNESMITH_DATABASE_URL": url}) as server:
            memory: list[float] = []
            began = time.monotonic()
            while time.monotonic() - began < 60 * minutes:
                ran = load(server.url, requests, connections=CONNECTIONS, seconds=BETWEEN)
                memory.append(server.memory_bytes / 1e6)
                print(
                    f"{time.monotonic() - began:5.0f} s: {memory[-1]:6.1f} MB, {ran.per_second:.0f} requests/s",
                    flush=True,
                )
    print(f"from the second to the last: {memory[-1] - memory[1]:+.1f} MB")


if __name__ == "__main__":
    main()
