"""The slots of a worker. All wake-ups and polls go through here, so that no slot ever runs two jobs."""

import logging
import threading

from sqlalchemy.exc import SQLAlchemyError

from worker.context import WorkerContext
from worker.run_job import run_next

log = logging.getLogger(__name__)


class Slots:
    """The free slots."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._free = threading.Semaphore(context.settings.slots)

    def wait_until_free(self) -> None:
        """Return when no slot runs a job any more. The slots cannot be used afterwards."""
        for _ in range(self._context.settings.slots):
            self._free.acquire()

    def run_until_idle(self) -> None:
        """Run jobs in a free slot until no job is left or the worker stops. Returns at once if no slot is free."""
        if not self._free.acquire(blocking=False):
            return
        try:
            while not self._context.stopping.is_set() and not self._context.rest.is_on and run_next(self._context):
                pass
        except SQLAlchemyError as error:
            log.warning("the database does not answer, looking again soon: %s", error)
        except OSError as error:
            log.warning("this worker takes no job, its scratch space cannot be used: %s", error)
        except Exception:
            # The lease expires and the job is retried, whatever the error was. The slot must continue.
            log.exception("a job ended with an unexpected error")
        finally:
            self._free.release()
