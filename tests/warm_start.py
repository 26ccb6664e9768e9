"""Starts processes of the service by a fork of one warm interpreter: in milliseconds, where imports take seconds.

    test process ── asks over a Unix socket ──> warm interpreter ── fork ──> `python -P -m worker`, as far as it can tell
                                                                               └─ fork ──> its forkserver

What runs is the same code in processes of its own with the same tree of parents; only the imports were done once for the
whole test run. A process whose environment changes how an interpreter or a library starts is started cold. So is one with
`TUNESMITH_TEST_COLD=1` in its environment, and every one if that is set for the whole test run.
"""

import atexit
import fcntl
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

HOME = "TUNESMITH_TEST_WARM"
"""The environment variable that names the folder of this test run's warm interpreter; `begin` sets it."""
OWNER = "TUNESMITH_TEST_WARM_OWNER"
"""The process at whose end the warm interpreter ends."""
COLD = "TUNESMITH_TEST_COLD"
SETTLED = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
"""What libraries read as they are imported. The processes of many tests share the cores, so threads do not spin here."""
AT_IMPORT = ("HF_", "LD_", "OMP_", "MKL_", "ONEDNN_", "ATEN_", "PYTHON", "FAKETIME", "TOKENIZERS_")
"""Variables that count as an interpreter starts or a library is imported."""
SCREEN = {"COLUMNS", "LINES"}
"""Variables whose values at its import rich would keep."""
INJECTED = "FAULT_"
"""Variables of tests/injection.py, whose PYTHONPATH a warm start can follow."""
MODULES = {"app", "app.cli", "worker", "worker.training"}
START_SECONDS = 120.0
POLL_SECONDS = 1.0
_one_at_a_time = threading.Lock()


class Started(Protocol):
    """What `subprocess.Popen` and `Forked` have in common."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        ...

    def send_signal(self, sig: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def begin() -> None:
    """Say where the warm interpreters of this run are to live. Each is started by whoever needs it first."""
    os.environ[HOME] = tempfile.mkdtemp(prefix="warm-")
    os.environ[OWNER] = str(os.getpid())


def end() -> None:
    """Remove what `begin` made. The interpreters themselves end with this process."""
    shutil.rmtree(os.environ.pop(HOME))


def start(arguments: Sequence[str], environment: Mapping[str, str], folder: Path, log: BinaryIO) -> Started:
    """Start `python -P` with these arguments. Its output goes to `log`; it is warm where that makes no difference."""
    if is_warm(arguments, environment):
        return Forked(_connection(), arguments[1:], environment, folder, log)
    command = [sys.executable, "-P", *arguments]
    return subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log, cwd=folder)


def tensorflow_python(python: Path, environment: Mapping[str, str]) -> Path:
    """A program that behaves like this interpreter of the environment with TensorFlow, and has already imported it."""
    if HOME not in os.environ or COLD in os.environ:
        return python
    home = Path(os.environ[HOME]) / "tensorflow"
    with _locked(home):
        if not (home / "python").exists():
            _start_interpreter(home, python, "tensorflow", {**os.environ, **environment})
            program = Path(__file__).with_name("warm_python.py").read_text()
            (home / "python").write_text(f"#!{python} -IS\n{program}")
            (home / "python").chmod(0o755)
    return home / "python"


def is_warm(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a fork of the warm interpreter would do as a new interpreter does."""
    if HOME not in os.environ or COLD in os.environ or COLD in environment:
        return False
    if list(arguments[:1]) != ["-m"] or arguments[1] not in MODULES:
        return False
    own = {**os.environ, **SETTLED}
    is_injected = any(name.startswith(INJECTED) for name in environment)
    return all(
        value == own.get(name) or (name == "PYTHONPATH" and is_injected)
        for name, value in environment.items()
        if name.startswith(AT_IMPORT)
    )


class Forked:
    """A child of the warm interpreter, with the part of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        connection: socket.socket,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: BinaryIO,
    ) -> None:
        asked = {"start": ["-m", *arguments], "environment": dict(environment), "folder": str(folder)}
        self.returncode: int | None = None
        self._connection, self._lock = connection, threading.Lock()
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - it is a name, no path of ours
            self.pid = int(_ask(connection, asked, [nothing.fileno(), log.fileno(), log.fileno()])["pid"])
        # It is reaped by nobody before it is asked for below, so the number is still its own.
        self._pidfd = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit code, or None while it runs; negative for a signal."""
        # Tests wait for one process in several threads.
        with self._lock:
            if self.returncode is None and _is_readable(self._pidfd, 0):
                self.returncode = int(_ask(self._connection, {"reap": self.pid})["code"])
                os.close(self._pidfd)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            _is_readable(self._pidfd, min(left, POLL_SECONDS))
        return code

    def send_signal(self, sig: int) -> None:
        """Signal it, unless it has ended."""
        with suppress(ProcessLookupError):
            if self.poll() is None:
                signal.pidfd_send_signal(self._pidfd, sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _is_readable(descriptor: int, timeout: float | None) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(None if timeout is None else timeout * 1000))


def _ask(connection: socket.socket, asked: object, descriptors: Sequence[int] = ()) -> dict[str, int]:
    payload = json.dumps(asked).encode()
    with _one_at_a_time:
        socket.send_fds(connection, [len(payload).to_bytes(4, "big")], descriptors)
        connection.sendall(payload)
        return json.loads(connection.recv(1000))


@functools.cache
def _connection() -> socket.socket:
    home = Path(os.environ[HOME]) / "main"
    with _locked(home):
        if not (home / "socket").exists():
            _start_interpreter(home, Path(sys.executable), "main", {**os.environ, **SETTLED})
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(home / "socket"))
    atexit.register(connection.close)
    return connection


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start_interpreter(home: Path, python: Path, kind: str, environment: Mapping[str, str]) -> None:
    program = Path(__file__).with_name("warm_interpreter.py")
    with (home / "log").open("wb") as log:
        interpreter = subprocess.Popen(
            [python, "-P", program, home / "socket", os.environ[OWNER], kind],
            env={name: value for name, value in environment.items() if name not in SCREEN},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not (home / "socket").exists():
        assert interpreter.poll() is None, (home / "log").read_text()
        assert time.monotonic() < deadline, (home / "log").read_text()
        time.sleep(0.05)
