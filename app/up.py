"""`tunesmith up`: API and worker on one machine. Each is a process that is restarted when it dies."""

import ctypes
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import auth, migrate
from app.db import Database
from app.errors import Unauthorized
from app.explain import CannotRun
from app.settings import Settings

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
STEADY_SECONDS = 60.0


def check_address(host: str, port: int) -> None:
    """Check that the API can listen on this address; otherwise it would be restarted forever. Raises CannotRun."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotRun(f"--host {host} is not an address of this machine: {error.strerror}") from error
    refusals = [refusal for family, _, _, _, address in found if (refusal := _refusal(family, address))]
    if any(refusal.errno == errno.EADDRINUSE for refusal in refusals):
        raise CannotRun(
            f"port {port} of {host} is taken: is Tunesmith running already? If not, choose another with --port"
        )
    if len(refusals) == len(found):
        raise CannotRun(f"nothing can listen on {host}, port {port}: {refusals[0].strerror}")


def set_up(settings: Settings, say: Callable[[str], None]) -> Path:
    """Migrate the database, make sure that the key file has a valid key, and return that file.

    If its key is not valid, the project `default` gets a new key. `say` is called if that replaces an older key.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    settings.models().mkdir(parents=True, exist_ok=True)
    key_file = settings.key_file()
    database = Database(settings.database())
    try:
        migrate.upgrade(database)
        if not _opens(database, key_file):
            if key_file.exists():
                say(f"The key in {key_file} is not valid for this database; a new key replaces it.")
            with database.write() as session:
                key = auth.create_key(session, auth.ensure_project(session, "default").id, "first key")
            # Written after the commit. Otherwise a crash in between would leave a key that is not valid.
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


def _refusal(family: socket.AddressFamily, address: Any) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Same option as the API's socket: a port whose socket was closed a moment ago counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _opens(database: Database, key_file: Path) -> bool:
    if not key_file.exists():
        return False
    with database.read() as session:
        try:
            auth.project_of(session, f"Bearer {key_file.read_text(errors='replace').strip()}")
        except Unauthorized:
            return False
    return True


class _Keeper:
    """One process that is kept running."""

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
    building = path.with_name(f"{path.name}.new")
    building.unlink(missing_ok=True)
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    building.replace(path)
