"""Training processes from a warm forkserver: start, wait, signal.

`Process.exitcode` cannot be trusted with a forkserver, and `Process.start` polls siblings, so every
`Process` method runs under one lock and waiting is done on a pidfd outside it. The outcome of a run is
the record that it wrote, never an exit code.
"""

import logging
import multiprocessing
import os
import select
import signal
import threading
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from worker import child
from worker.reach import SandboxSettings

log = logging.getLogger(__name__)

PRELOADED = ("worker.training.warm", "worker.child")


class TrainingProcess:
    """A running training process, in a session of its own."""

    def __init__(self, process: ForkServerProcess, lock: threading.Lock) -> None:
        self._process, self._lock = process, lock
        self.pid = process.pid or 0
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            # The process ended, and the forkserver reaped it, before the pidfd was opened.
            self._pidfd = -1

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the process to end. True if it has ended."""
        if self._pidfd < 0:
            return True
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def ask_to_stop(self) -> None:
        """Send SIGTERM. The process saves a checkpoint and ends."""
        with suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process and everything it started, and wait until it is gone."""
        with suppress(ProcessLookupError):
            # The group outlives its leader where it left children; the pid cannot be reused while it does.
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.wait(10)

    def close(self) -> None:
        """Make sure that nothing of the process is left, and free its resources here."""
        self.kill()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        with self._lock:
            self._process.join(5)


class TrainingProcesses:
    """Starts training processes; one forkserver serves all slots."""

    def __init__(self, sandbox: SandboxSettings) -> None:
        self._sandbox = sandbox
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._lock = threading.Lock()

    def start(self, request: Path, log_file: Path, gpu: str | None) -> TrainingProcess:
        """Start one on a request file. Its output goes to `log_file`; it sees only this GPU, or none."""
        with self._lock:
            process = self._context.Process(target=child.main, args=(str(request), str(log_file), gpu, self._sandbox))
            process.start()
        return TrainingProcess(process, self._lock)

    def warm_up(self) -> None:
        """Start the forkserver now, so that the first job need not wait for the imports."""
        with self._lock:
            process = self._context.Process(target=child.nothing)
            process.start()
        TrainingProcess(process, self._lock).close()
