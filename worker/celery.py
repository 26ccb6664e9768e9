# pyright: standard, reportMissingTypeStubs=false
# Celery carries no types.
"""The Celery side of a worker: one task, `wake`, in a pool of threads."""

from typing import Any

from celery import Celery, signals

from app.jobs.wakeup import WAKE_TASK, broker
from worker.parts import Parts
from worker.slots import Slots


def serve(parts: Parts, slots: Slots, queues: tuple[str, ...]) -> None:
    """Consume wake-ups until SIGTERM or SIGINT; then set `parts.stopping` and return when all slots are empty."""
    celery = broker(parts.settings.broker_url)
    _register(celery, slots)

    def stop(**_: Any) -> None:
        parts.stopping.set()

    signals.worker_shutting_down.connect(stop, weak=False)
    # Built only after the task is registered: a worker reads its tasks once.
    worker = celery.Worker(
        pool="threads",
        concurrency=parts.settings.slots,
        queues=list(queues),
        hostname=f"{parts.worker_id}@%h",
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()


def _register(celery: Celery, slots: Slots) -> None:
    @celery.task(name=WAKE_TASK, ignore_result=True)
    def wake() -> None:
        slots.run_until_idle()
