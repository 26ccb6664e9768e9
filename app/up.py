"""`tunesmith up`: API and worker on one machine, each a process, restarted when it dies."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from app import auth, migrate
from app.db import Database
from app.settings import Settings

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
STEADY_SECONDS = 60.0


def prepare(settings: Settings) -> Path:
    """Migrate, make the project `default` and its first key, and return the file with that key."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    settings.models().mkdir(parents=True, exist_ok=True)
    key_file = settings.key_file()
    database = Database(settings.database())
    try:
        migrate.upgrade(database)
        if not key_file.exists():
            with database.write() as session:
                key = auth.create_key(session, auth.ensure_project(session, "default").id, "first key")
                _write_secret(key_file, key)
    finally:
        database.close()
    return key_file


def serve(settings: Settings, host: str, port: int) -> None:
    """Run both processes until SIGTERM or SIGINT, then stop both and wait for them."""
    stopping = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    environment = {**os.environ, "TUNESMITH_DATA_DIR": str(settings.data_dir.absolute())}
    commands = (["-m", "app", "--host", host, "--port", str(port)], ["-m", "worker"])
    # -P keeps a folder named `worker` or `app` in the user's directory from being taken for ours.
    keepers = [_Keeper([sys.executable, "-P", *command], environment) for command in commands]
    while not stopping.wait(0.2):
        for keeper in keepers:
            keeper.restart_if_dead()
    for keeper in keepers:
        keeper.ask_to_stop()
    for keeper in keepers:
        keeper.wait(settings.stop_grace_seconds + 15)


class _Keeper:
    """One process that shall always run."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command, self._environment = command, environment
        self._wait = RESTART_SECONDS
        self._start()

    def restart_if_dead(self) -> None:
        now = time.monotonic()
        code = self._process.poll()
        if code is None:
            self._wait = RESTART_SECONDS if now - self._started > STEADY_SECONDS else self._wait
            return
        if self._due is None:
            log.warning("%s ended with %s; starting it again in %.0f s", " ".join(self._command[2:4]), code, self._wait)
            self._due = now + self._wait
            self._wait = min(self._wait * 2, LONGEST_RESTART_SECONDS)
        elif now >= self._due:
            self._start()

    def ask_to_stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._started, self._due = time.monotonic(), None
        # A group of its own: Ctrl-C reaches `up` alone, which then stops both in order.
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            process_group=0,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one prctl call, before any thread of ours starts
        )


def _end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
