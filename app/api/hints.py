"""Sends hints to workers in the background, so that no request waits for the broker."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from app.jobs.wakeup import Wakeup

GATHER_SECONDS = 0.02
"""Jobs that are posted within this time share a hint."""


class Hints:
    """One thread sends, so a broker that does not answer blocks no request.

    A queue with a pending hint gets no second one, so many jobs posted at once cause few messages.
    """

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="hints")
        self._lock = threading.Lock()
        self._waiting: set[str] = set()

    def give(self, queue: str) -> None:
        """Notify the workers soon that this queue has work. The job must be committed."""
        with self._lock:
            if queue in self._waiting:
                return
            self._waiting.add(queue)
        self._executor.submit(self._send, queue)

    def close(self) -> None:
        """Send no more hints. A lost hint delays a job by one poll interval."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _send(self, queue: str) -> None:
        time.sleep(GATHER_SECONDS)
        # Removed before it is sent, because a job that is committed from here on needs its own hint.
        with self._lock:
            self._waiting.discard(queue)
        self._wakeup.hint(queue)
