"""Keeps processes of the service running: each is started again when it dies, and all end with their parent."""

import ctypes
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from app.stop_signals import stop_on_signals

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
STEADY_SECONDS = 60.0


def keep_running(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], *, grace: float, files: Sequence[int] = ()
) -> None:
    """Run these commands until SIGTERM or SIGINT, then stop all of them, and kill those that take longer than `grace` seconds.

    The processes inherit the open `files`.
    """
    stopping = threading.Event()
    stop_on_signals(stopping)
    keepers = [_Keeper(command, environment, files) for command in commands]
    while not stopping.wait(0.2):
        for keeper in keepers:
            keeper.restart_if_dead()
    for keeper in keepers:
        keeper.ask_to_stop()
    for keeper in keepers:
        keeper.wait(grace)


class _Keeper:
    """One process that is kept running."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], files: Sequence[int]) -> None:
        self._command, self._environment, self._files = command, environment, files
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
        # A group of its own: Ctrl-C reaches the parent alone, which then stops all in order.
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            pass_fds=self._files,
            process_group=0,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one prctl call, before any thread of ours starts
        )


def _end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
