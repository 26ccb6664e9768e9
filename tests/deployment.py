"""Runs the service as its users do: API and workers as processes, over the databases, broker and storage given."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port
from warm_start import Started, start

from app import auth, migrate
from app.client import Client
from app.db import Database
from app.settings import Settings
from app.storage import Storage, open_storage

START_SECONDS = 180.0
WAIT_SECONDS = 400.0
"""How long a job may take to get anywhere. A limit for what hangs, not a speed: a busy machine may be ten times slower."""
Answer = dict[str, Any]


@dataclass
class Process:
    """A process of the service and the file it logs to."""

    popen: Started
    log_file: Path
    is_asked_to_stop: bool = False

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def training_pids(self) -> list[int]:
        """All training processes that this worker started, oldest first."""
        return [int(pid) for pid in re.findall(r"trains in process (\d+)", self.log)]

    def training_pids_of(self, job_id: str) -> list[int]:
        """The training processes of one job, oldest first."""
        return [int(pid) for pid in re.findall(rf"job {job_id}: attempt \d+ trains in process (\d+)", self.log)]

    @property
    def training_pid(self) -> int:
        """The newest training process that this worker started."""
        return self.training_pids[-1]

    def stop(self, number: int = signal.SIGTERM, patience: float = 60) -> int:
        """Signal it and wait for its end; returns the exit code."""
        self.is_asked_to_stop = True
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"it did not stop within {patience} s:\n{self.log[-3000:]}") from None


@dataclass
class Deployment:
    """One service: its settings, its address and key, and the processes that were started."""

    folder: Path
    settings: dict[str, str]
    url: str = ""
    key: str = ""
    processes: list[Process] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def client(self) -> Client:
        return Client(self.url, self.key)

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=60)

    @property
    def database_url(self) -> str:
        return self.settings["TUNESMITH_DATABASE_URL"]

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TUNESMITH_", "AWS_"))}
        return {
            **clean,
            **self.settings,
            "TUNESMITH_URL": self.url,
            "TUNESMITH_API_KEY": self.key,
            "HF_HUB_OFFLINE": "1",
        }

    def new_key(self, project: str) -> str:
        database = Database(self.database_url)
        with database.write() as session:
            key = auth.create_key(session, auth.ensure_project(session, project).id, "test")
        database.close()
        return key

    def start_api(self, port: int | None = None, **environment: str) -> Process:
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        process = self._start("api", "-m", "app", "--port", str(port), **environment)
        wait_until(lambda: _answers(self.url), process)
        return process

    def start_apis(self, processes: int) -> Process:
        """Start several API processes behind one address, with `tunesmith api`; returns their parent once one serves."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        process = self._start("apis", "-m", "app.cli", "api", "--port", str(port), "--processes", str(processes))
        wait_until(lambda: _answers(self.url), process)
        return process

    def start_up(self, *, is_worker_ready: bool = True, **environment: str) -> Process:
        """Start API and worker the way one machine does, with `tunesmith up`; returns once both serve, or the API alone."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        process = self._start(
            "up", "-m", "app.cli", "up", "--port", str(port), "--data", str(self.folder), **environment
        )
        wait_until(lambda: ("takes jobs for" in process.log or not is_worker_ready) and _answers(self.url), process)
        return process

    def start_worker(self, *arguments: str, **environment: str) -> Process:
        process = self._start("worker", "-m", "worker", *arguments, **environment)
        wait_until(lambda: "takes jobs for" in process.log, process)
        return process

    def tunesmith(self, *arguments: str, code: int = 0) -> str:
        """Run a command line; returns what it prints."""
        log_file = self.folder / "tunesmith.log"
        with log_file.open("wb") as log:
            done = start(["-m", "app.cli", *arguments], {**self.environment(), "COLUMNS": "200"}, self.folder, log)
            returncode = done.wait(300)
        printed = log_file.read_text()
        assert returncode == code, (returncode, printed)
        return printed

    def wait_for(self, job_id: str, reached: Callable[[Answer], bool], seconds: float = WAIT_SECONDS) -> Answer:
        """Poll a job until it is as wanted."""
        client, deadline = self.client, time.monotonic() + seconds
        while True:
            job = client.get(f"/v1/jobs/{job_id}")
            if reached(job):
                return job
            assert time.monotonic() < deadline, (f"not within {seconds} s", job, self.logs())
            time.sleep(0.1)

    def wait_for_end(self, job_id: str, seconds: float = WAIT_SECONDS) -> Answer:
        return self.wait_for(job_id, lambda job: job["status"] in ("succeeded", "failed", "cancelled"), seconds)

    def wait_for_checkpoint(self, job_id: str) -> None:
        """Poll a job until it has a checkpoint in storage."""
        checkpoints = f"/v1/jobs/{job_id}/checkpoints"
        self.wait_for(job_id, lambda _: bool(self.client.get(checkpoints)["data"]))

    def model_sha(self, job_id: str) -> str:
        """SHA-256 of the weights that a job published."""
        files = self.client.get(f"/v1/jobs/{job_id}/artifacts")["data"]
        return next(file["sha256"] for file in files if file["path"] == "model.safetensors")

    def open_storage(self) -> Storage:
        """The service's storage, opened as its own processes open it."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.settings.items():
                patch.setenv(name, value)
            return open_storage(Settings().storage())

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in sorted(self.folder.glob("*.log"))
        )

    def close(self) -> None:
        for process in self.processes:
            process.is_asked_to_stop = True
        self._stack.close()

    def _start(self, kind: str, *arguments: str, **environment: str) -> Process:
        log_file = self.folder / f"{len(self.processes) + 1}-{kind}.log"
        log = self._stack.enter_context(log_file.open("wb"))
        popen = start(arguments, {**self.environment(), **environment}, self.folder, log)
        process = Process(popen, log_file)
        self.processes.append(process)
        self._stack.callback(_end, popen)
        return process


@contextmanager
def deployment(folder: Path, **settings: str) -> Iterator[Deployment]:
    """A migrated service with one key, and no process yet. Leases and polls are short, so that tests are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    in_force = {
        "TUNESMITH_DATA_DIR": str(folder),
        "TUNESMITH_DATABASE_URL": f"sqlite:///{folder / 'tunesmith.db'}",
        "TUNESMITH_POLL_SECONDS": "0.5",
        "TUNESMITH_SWEEP_SECONDS": "0.5",
        "TUNESMITH_LEASE_SECONDS": "5",
        "TUNESMITH_HEARTBEAT_SECONDS": "1",
        "TUNESMITH_BACKOFF_SECONDS": "0.1",
        # Models of a few thousand weights lose more by handing work from thread to thread than they gain.
        "TUNESMITH_THREADS_PER_SLOT": "1",
        "TUNESMITH_TENSORFLOW_PYTHON": os.environ.get("TUNESMITH_TENSORFLOW_PYTHON", ""),
        **settings,
    }
    service = Deployment(folder, in_force)
    database = Database(service.database_url)
    migrate.upgrade(database)
    database.close()
    service.key = service.new_key("default")
    try:
        yield service
    finally:
        service.close()


def wait_until(reached: Callable[[], bool], process: Process, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.popen.poll() is None, f"it ended with {process.popen.returncode}:\n{process.log[-3000:]}"
        assert time.monotonic() < deadline, f"not within {seconds} s:\n{process.log[-3000:]}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False


def _end(popen: Started) -> None:
    if popen.poll() is None:
        popen.terminate()
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
