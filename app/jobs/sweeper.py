"""Repairs what a dead process left behind. It uses only guarded UPDATEs, so every process may run it."""

import logging
import threading
import time

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from app.db import DATABASE_AWAY, Database, now
from app.jobs import lifecycle, queries
from app.jobs.decision import RetryPolicy
from app.jobs.matching import described
from app.jobs.tables import Job
from app.jobs.waiting import without_worker
from app.jobs.wakeup import Wakeup
from app.turns import SWEEP, SWEEP_WITHOUT_RECLAIMS, take_turn

log = logging.getLogger(__name__)

HINT_SECONDS = 15.0
"""A job that became due longer ago waits for a slot, not for a hint. More hints would only pile up."""
ENGINE_SECONDS = 60.0
"""If no live worker could run a job for this long, its log gets a note."""


def sweep(
    database: Database,
    policy: RetryPolicy,
    wakeup: Wakeup,
    *,
    reclaims: bool = True,
    engine_seconds: float = ENGINE_SECONDS,
) -> int:
    """Reclaim expired leases, fail jobs past their deadline, and send hints for jobs that just became due.

    Returns the number of jobs changed. A job that has waited `engine_seconds` while no live worker could run it gets
    one note in its log.
    """
    changed = _reclaim(database, policy) if reclaims else 0
    with database.read() as session:
        late = queries.past_deadline(session)
    for job_id in late:
        with database.write() as session:
            changed += lifecycle.expire(session, job_id, policy)
    _tell_of_missing_engines(database, engine_seconds)
    with database.read() as session:
        waiting = queries.due_queues(session, within=HINT_SECONDS)
    for queue in waiting:
        wakeup.hint(queue)
    return changed


def _reclaim(database: Database, policy: RetryPolicy) -> int:
    with database.read() as session:
        expired = queries.expired_leases(session)
    changed = 0
    for job in expired:
        try:
            with database.write() as session:
                reclaimed = lifecycle.reclaim(session, job.id, job.attempt, policy)
        except DATABASE_AWAY as error:
            # A worker that froze during a transaction still locks this row. Other jobs must not wait for it.
            log.warning("job %s: it cannot be reclaimed yet: %s", job.id, error)
            continue
        if reclaimed:
            log.warning("job %s: the worker of attempt %s stopped renewing its lease", job.id, job.attempt)
            changed += 1
    return changed


def _tell_of_missing_engines(database: Database, waited: float) -> None:
    with database.read() as session:
        waiting = without_worker(session, waited=waited)
    for job, features in waiting:
        message = f"for {waited:.0f} s no live worker could run this job: none {described(features)}"
        with database.write() as session:
            if lifecycle.note(session, job.id, job.event_seq, message, job.engine):
                log.warning("job %s: %s", job.id, message)


class Sweeper(threading.Thread):
    """Sweeps every `interval` seconds until stopped, unless another process has just done so.

    It reclaims only after its own contact with the database has been good for one full lease: while the database was
    away, and before this process started, perhaps no worker could renew its lease. Contact means a write, like a
    renewal. It is good if it is on time by the database's clock. It is late if a lock kept all writers waiting, if this
    machine slept, or if that clock was set.
    """

    def __init__(
        self,
        database: Database,
        policy: RetryPolicy,
        wakeup: Wakeup,
        *,
        interval: float,
        lease_seconds: float,
        engine_seconds: float = ENGINE_SECONDS,
    ) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._database, self._policy, self._wakeup = database, policy, wakeup
        self._interval, self._lease_seconds = interval, lease_seconds
        self._engine_seconds = engine_seconds
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Sweep until stopped. An unreachable database is logged and tried again."""
        good_since: float | None = None
        last_contact = 0.0
        while not self._stop_asked.wait(self._interval):
            try:
                contact = self._contact()
                if contact - last_contact > self._interval + self._lease_seconds / 4:
                    good_since = None
                last_contact = contact
                reclaims = good_since is not None and time.monotonic() - good_since >= self._lease_seconds
                if self._has_turn(reclaims=reclaims):
                    sweep(
                        self._database,
                        self._policy,
                        self._wakeup,
                        reclaims=reclaims,
                        engine_seconds=self._engine_seconds,
                    )
                good_since = good_since or time.monotonic()
            except SQLAlchemyError as error:
                log.warning("sweep failed, the database does not answer: %s", error)
                good_since = None
            except Exception:
                # The cause may be gone at the next sweep. Without further sweeps, nothing would be repaired.
                log.exception("sweep failed")

    def stop(self) -> None:
        """End the thread."""
        self._stop_asked.set()
        self.join()

    def _has_turn(self, *, reclaims: bool) -> bool:
        # A process that may not reclaim yet takes no turn from those that may.
        with self._database.write() as session:
            return take_turn(session, SWEEP if reclaims else SWEEP_WITHOUT_RECLAIMS, self._interval)

    def _contact(self) -> float:
        with self._database.write() as session:
            # It matches no row, but fails whenever a renewal would fail.
            session.execute(update(Job).where(Job.id == "").values(attempt=Job.attempt))
            return session.execute(select(now())).scalar_one()
