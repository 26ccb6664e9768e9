"""Repairs what a dead process left behind. Guarded UPDATEs only, so every process may run it."""

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.jobs import lifecycle, queries
from app.jobs.lifecycle import Limits
from app.jobs.wakeup import Wakeup
from app.storage import Storage, StorageError

log = logging.getLogger(__name__)


HINT_SECONDS = 15.0
"""A job that became due longer ago waits for a slot, not for a hint: more of them would only pile up."""
UPKEEP_SECONDS = 3600.0
LEFT_BEHIND_SECONDS = 24 * 3600.0
"""What a put left behind longer ago than this belongs to nobody any more."""


def sweep(database: Database, limits: Limits, wakeup: Wakeup) -> int:
    """Reclaim expired leases, fail queued jobs past their deadline, hint at work just due. Returns jobs changed."""
    with database.read() as session:
        expired, late = queries.expired_leases(session), queries.past_deadline(session)
    changed = 0
    for job in expired:
        with database.write() as session:
            if lifecycle.reclaim(session, job, limits):
                log.warning("job %s: the worker of attempt %s fell silent", job.id, job.attempt)
                changed += 1
    for job_id in late:
        with database.write() as session:
            changed += lifecycle.expire(session, job_id)
    with database.read() as session:
        waiting = queries.due_queues(session, within=HINT_SECONDS)
    for queue in waiting:
        wakeup.hint(queue)
    return changed


class Sweeper(threading.Thread):
    """Sweeps every `interval` seconds until stopped.

    After an outage of the database it waits one full lease before it reclaims: nobody could renew meanwhile.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        limits: Limits,
        wakeup: Wakeup,
        *,
        interval: float,
        lease_seconds: float,
    ) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._database, self._storage, self._limits, self._wakeup = database, storage, limits, wakeup
        self._interval, self._lease_seconds = interval, lease_seconds
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Sweep until stopped; an unreachable database is logged and tried again."""
        wait, next_upkeep = self._interval, time.monotonic()
        while not self._stop_asked.wait(wait):
            try:
                if time.monotonic() >= next_upkeep:
                    next_upkeep = time.monotonic() + UPKEEP_SECONDS
                    self._storage.sweep_temporary(LEFT_BEHIND_SECONDS)
                sweep(self._database, self._limits, self._wakeup)
                wait = self._interval
            except SQLAlchemyError as error:
                log.warning("sweep failed, the database does not answer: %s", error)
                wait = max(self._lease_seconds, self._interval)
            except StorageError as error:
                log.warning("the storage was not tidied up: %s", error)
            except Exception:
                # The next sweep may find the cause gone; without sweeps nothing is repaired.
                log.exception("sweep failed")

    def stop(self) -> None:
        """End the thread."""
        self._stop_asked.set()
        self.join()
