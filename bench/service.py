"""A service with one worker for a benchmark, started by `tunesmith up` in a temporary folder."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.client import Client

FINAL = ("succeeded", "failed", "cancelled")
START_SECONDS = 120
POLL_SECONDS = 0.25
"""An answer takes the service some milliseconds, which training lacks on the same machine."""


class Service:
    """A running service and its client."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client, self.folder = client, folder

    def upload(self, path: Path) -> str:
        """Upload a file. Returns the id of the dataset."""
        return self.client.upload(path)["id"]

    def run(self, body: dict[str, Any]) -> dict[str, Any]:
        """Submit a job and poll until it has succeeded."""
        return self.wait_for_end(self.client.post("/v1/jobs", body))

    def wait_for_end(self, job: dict[str, Any]) -> dict[str, Any]:
        """Poll a job until it has succeeded. Raises SystemExit if it ended otherwise."""
        while job["status"] not in FINAL:
            time.sleep(POLL_SECONDS)
            job = self.client.get(f"/v1/jobs/{job['id']}")
        if job["status"] != "succeeded":
            raise SystemExit(f"the job ended as {job['status']}: {job['error']}")
        return job


@contextmanager
def running_service(models: Path) -> Iterator[Service]:
    """A service with these local models, from the moment its worker is up."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        data = Path(name) / "data"
        shutil.copytree(models, data / "models")
        with (Path(name) / "log").open("wb") as log:
            up = subprocess.Popen(
                [Path(sys.executable).with_name("tunesmith"), "up", "--port", str(port), "--data", str(data)],
                stdout=log,
                stderr=log,
                env={**os.environ, "TUNESMITH_DATA_DIR": str(data), "HF_HUB_OFFLINE": "1"},
            )
            try:
                yield Service(_client(f"http://127.0.0.1:{port}", data / "api-key"), data)
            finally:
                up.send_signal(signal.SIGTERM)
                up.wait()


def _client(url: str, key: Path) -> Client:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.2)
        try:
            if httpx.get(f"{url}/readyz", timeout=2).is_success and key.exists():
                client = Client(url, key.read_text().strip())
                if client.get("/v1/workers")["data"]:
                    return client
        except httpx.TransportError:
            continue
    raise SystemExit(f"the service did not start within {START_SECONDS} s")
