"""Wakes the pollers of a worker when a job may have arrived, where there is no broker that would."""

import logging
import threading

from app.commits import COMMITS_AWAY, commits
from app.db import Database

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0


class Arrivals(threading.Thread):
    """Watches the database for commits until the worker stops. While that fails, the poll finds the jobs.

    Without a database, because a broker wakes the worker, it only notices that the worker stops.
    """

    def __init__(self, database: Database | None, stopping: threading.Event) -> None:
        super().__init__(name="arrivals", daemon=True)
        self._database, self._stopping = database, stopping
        self._changed = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How many commits were noticed. Read it before looking for work, and give it to `wait`."""
        return self._count

    def wait(self, count: int, seconds: float) -> None:
        """Return when there was a commit since the count, or the worker stops, but at the latest after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != count or self._stopping.is_set(), seconds)

    def run(self) -> None:
        """Watch. After an error, try again after some seconds."""
        if self._database is None:
            self._stopping.wait()
        else:
            self._watch(self._database)
        self._announce()

    def _watch(self, database: Database) -> None:
        while not self._stopping.is_set():
            try:
                with commits(database) as watched:
                    while not self._stopping.is_set():
                        if watched.wait():
                            self._announce()
            except COMMITS_AWAY as error:
                log.warning(
                    "new jobs are found by polling alone for %s s, the database does not answer: %s",
                    RETRY_SECONDS,
                    error,
                )
                self._stopping.wait(RETRY_SECONDS)

    def _announce(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()
