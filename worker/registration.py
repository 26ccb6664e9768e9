"""Maintains this worker's row: its identity, what it offers, and when it was last seen."""

import logging
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from app import __version__
from app.db import Database, now
from app.workers.tables import Worker
from worker.offer import Offer

log = logging.getLogger(__name__)


class Registration(threading.Thread):
    """Registers the worker when created, renews `last_seen_at` every `interval` seconds, and signs off at the end."""

    def __init__(
        self,
        database: Database,
        worker_id: str,
        queues: Sequence[str],
        offer: Offer,
        slots: int,
        hardware: dict[str, Any],
        interval: float,
    ) -> None:
        super().__init__(name="registration", daemon=True)
        self._database, self._worker_id, self._interval = database, worker_id, interval
        self._stop_asked = threading.Event()
        self._offer, self._announced = offer, offer.features()
        with database.write() as session:
            session.add(
                Worker(
                    id=worker_id,
                    host=socket.gethostname()[:255],
                    pid=os.getpid(),
                    version=__version__,
                    queues=",".join(queues),
                    engines=",".join(offer.engines),
                    features=self._announced,
                    slots=slots,
                    hardware=hardware,
                )
            )

    def run(self) -> None:
        """Renew `last_seen_at` until stopped."""
        while not self._stop_asked.wait(self._interval):
            try:
                features = self._offer.features()
                # The features take a few kilobytes and rarely change, so they are written only after a model was added
                # or removed.
                self._write(last_seen_at=now(), **({} if features == self._announced else {"features": features}))
                self._announced = features
            except SQLAlchemyError as error:
                log.warning("the database does not answer: %s", error)

    def sign_off(self) -> None:
        """Record that this worker has stopped."""
        self._stop_asked.set()
        self.join()
        self._write(stopped_at=now())

    def _write(self, **values: Any) -> None:
        with self._database.write() as session:
            session.execute(update(Worker).where(Worker.id == self._worker_id).values(**values))
