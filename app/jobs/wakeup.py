# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
"""Notifies workers, after a commit, that there is work. This is only a hint: workers poll anyway."""

import logging
from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError

from app.commits import notify
from app.db import Database

log = logging.getLogger(__name__)

WAKE_TASK = "tunesmith.wake"


class Wakeup(Protocol):
    """How hints are sent."""

    def hint(self, queue: str) -> None:
        """Announce that this queue has work. Never raises: a lost hint only delays a job by one poll interval."""
        ...


class CommitWakeup:
    """For a service without a broker: workers watch the database (see `app.commits`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hint(self, queue: str) -> None:
        """Announce the commit."""
        notify(self._database)


class CeleryWakeup:
    """Sends Celery's `wake` task by name, so that the API needs none of the worker's code."""

    def __init__(self, broker_url: str) -> None:
        self._celery = broker(broker_url)
        # Waiting is not worthwhile for a hint that cannot be sent now.
        self._celery.conf.broker_transport_options = {**self._celery.conf.broker_transport_options, "max_retries": 0}

    def hint(self, queue: str) -> None:
        """Put one message in the queue."""
        try:
            self._celery.send_task(WAKE_TASK, queue=queue, ignore_result=True, retry=False, expires=60)
        except (OperationalError, OSError) as error:
            log.warning("the broker does not answer, workers will find the job by polling: %s", error)

    def check(self) -> None:
        """Raise if the broker does not answer within a second or two."""
        with self._celery.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)


def open_wakeup(broker_url: str, database: Database) -> Wakeup:
    """Choose by URL: without one, the database itself wakes the workers."""
    return CeleryWakeup(broker_url) if broker_url else CommitWakeup(database)


def broker(url: str) -> Celery:
    """A Celery app on this broker, configured so that its messages are only hints."""
    celery = Celery("tunesmith", broker=url)
    celery.conf.update(
        task_ignore_result=True,
        task_acks_late=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_timeout": 10, "socket_connect_timeout": 2, "socket_keepalive": True},
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        task_serializer="json",
        accept_content=["json"],
    )
    return celery
