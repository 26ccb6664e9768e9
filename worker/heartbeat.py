"""Renews a job's lease and reads the requests of users, even if everything else is slow."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.jobs import lifecycle
from app.jobs.lifecycle import Lease, LostLease, Requests

log = logging.getLogger(__name__)

REQUEST_SECONDS = 1.0


class Heartbeat:
    """A context in which the lease is renewed. `cancel`, `pause` and `lost` are set when they become true."""

    def __init__(self, database: Database, lease: Lease, *, every: float, lease_seconds: float) -> None:
        self._database, self._lease = database, lease
        self._every, self._lease_seconds = every, lease_seconds
        self.cancel = threading.Event()
        self.pause = threading.Event()
        self.lost = threading.Event()
        self._done = threading.Event()
        self._ending = threading.Event()
        self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{lease.job_id}", daemon=True)

    def __enter__(self) -> Self:
        """Start beating."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop beating."""
        self._done.set()
        self._thread.join()

    def silent_for(self) -> float:
        """For how many seconds the database has not answered.

        This is measured outside of the heartbeat thread, which may hang in a call that never returns.
        """
        return time.monotonic() - self._answered

    def expect_the_end(self) -> None:
        """From now on, a lease may be gone because this worker itself ended it."""
        self._ending.set()

    def _beat(self) -> None:
        renewed = self._answered = time.monotonic()
        while not self._done.wait(min(REQUEST_SECONDS, self._every)):
            try:
                if time.monotonic() - renewed >= self._every:
                    self._renew()
                    renewed = time.monotonic()
                else:
                    self._look()
                self._answered = time.monotonic()
            except LostLease:
                if not self._ending.is_set():
                    log.warning(
                        "job %s is no longer attempt %s of this worker", self._lease.job_id, self._lease.attempt
                    )
                self.lost.set()
                return
            except SQLAlchemyError as error:
                log.warning("job %s: the database does not answer: %s", self._lease.job_id, error)
            except Exception:
                # A lease that nobody renews counts as lost. To continue training without a lease would be worse.
                log.exception("job %s: the heartbeat failed", self._lease.job_id)
                self.lost.set()
                return

    def _renew(self) -> None:
        with self._database.write() as session:
            self._obey(lifecycle.renew(session, self._lease, self._lease_seconds))

    def _look(self) -> None:
        # A read between renewals makes cancels quick without a write each second.
        with self._database.read() as session:
            requests = lifecycle.look(session, self._lease)
        self._obey(requests)

    def _obey(self, requests: Requests) -> None:
        if requests.cancel:
            self.cancel.set()
        if requests.pause:
            self.pause.set()
