# pyright: standard, reportMissingTypeStubs=false
# Celery carries no types.
"""The Celery side of a worker: one task, `wake`, in a pool of threads."""

import threading
from typing import Any

from celery import Celery
from celery.worker import state

from app.jobs.wakeup import WAKE_TASK, broker
from worker.context import WorkerContext
from worker.slots import Slots


def start_consuming(context: WorkerContext, slots: Slots) -> threading.Thread:
    """Consume wake-ups in a thread until `context.stopping` is set.

    This is a thread because Celery's own signal handlers would swallow a SIGTERM during its start, and would wait
    forever for a broker that is unreachable. The worker handles signals itself, as it does without a broker.
    """
    celery = broker(context.settings.broker_url)
    _register(celery, slots)

    # Built only after the task is registered: a worker reads its tasks once.
    worker = celery.Worker(
        pool="threads",
        concurrency=context.settings.slots,
        queues=list(context.queues),
        hostname=f"{context.worker_id}@%h",
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )

    def consume() -> None:
        threading.Thread(target=_stop_with, args=(context, worker), name="celery-stop", daemon=True).start()
        worker.start()

    thread = threading.Thread(target=consume, name="celery", daemon=True)
    thread.start()
    return thread


def _stop_with(context: WorkerContext, worker: Any) -> None:
    context.stopping.wait()
    state.should_stop = 0
    worker.stop()


def _register(celery: Celery, slots: Slots) -> None:
    @celery.task(name=WAKE_TASK, ignore_result=True)
    def wake() -> None:
        slots.run_until_idle()
