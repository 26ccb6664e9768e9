"""`python -m worker`: claims and runs jobs until SIGTERM or SIGINT."""

import argparse
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from app.datasets.local_copy import LocalCopies
from app.db import Database
from app.identifiers import new_id
from app.jobs.decision import RetryPolicy
from app.jobs.sweeper import Sweeper
from app.jobs.wakeup import open_wakeup
from app.private_files import keep_private
from app.settings import Settings
from app.specs.engines import ENGINE_FACTS
from app.stop_signals import stop_on_signals
from app.storage import open_storage
from app.workspaces import clear_abandoned
from worker import machine
from worker.arrivals import Arrivals
from worker.context import WorkerContext
from worker.gpus import FreeGpus
from worker.local import start_polling
from worker.memory import machine_bytes
from worker.offer import Offer
from worker.processes import TrainingProcesses
from worker.reach import SandboxSettings
from worker.registration import Registration
from worker.sandbox import isolation, keep_environment
from worker.slots import Slots
from worker.training.keras import environment as tensorflow_environment
from worker.training.threads import spin_briefly

log = logging.getLogger("worker")

LOCK_SECONDS = 5.0
"""How long a statement of a worker waits for a lock.

A worker that freezes leaves its transaction open until the server ends it. If its other threads wait for the same row, each
of them would get the lock in turn and hold it as long. With this limit they have given up by then.
"""
WARM_UP_POLL_SECONDS = 0.1
MEMORY_SHARE = 0.9
"""Of the machine, for all training processes of a worker without GPUs."""


def main() -> None:
    """Open the resources of the worker, run jobs, and stop everything at the end."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="A Tunesmith worker. Settings: TUNESMITH_*.")
    parser.add_argument("--slots", type=int, help="jobs at once; overrides TUNESMITH_SLOTS")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings() if arguments.slots is None else Settings(slots=arguments.slots)
    keep_private(settings)
    hardware = machine.describe()
    gpus = [gpu["uuid"] for gpu in hardware["gpus"]]
    memory_bytes = _memory_of_training(settings, gpus)
    hardware["isolation"] = isolation(settings.sandbox, memory_bytes).to_json()
    queues = ("cpu", "gpu") if gpus else ("cpu",)
    context = _open(settings, gpus, queues, memory_bytes)
    stop_on_signals(context.stopping)
    # The forkserver and its children inherit this process's environment. They need no secrets of the service, and this
    # process has already read its own.
    keep_environment(filter(None, settings.training_environment.split(",")))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    spin_briefly()
    clear_abandoned(context.workspaces)
    registration = Registration(
        context.database,
        context.worker_id,
        queues,
        context.offer,
        settings.slots,
        hardware,
        settings.heartbeat_seconds,
    )
    sweeper = Sweeper(
        context.database,
        context.policy,
        open_wakeup(settings.broker_url, context.database),
        interval=settings.sweep_seconds,
        lease_seconds=settings.lease_seconds,
        engine_seconds=settings.engine_seconds,
    )
    registration.start()
    sweeper.start()
    _warm_up(context)
    if not context.stopping.is_set():
        log.info("worker %s takes jobs for %s in %s slots", context.worker_id, " and ".join(queues), settings.slots)
        _run_jobs(context)
    sweeper.stop()
    registration.sign_off()
    context.database.close()
    log.info("worker %s has stopped", context.worker_id)


def _warm_up(context: WorkerContext) -> None:
    """Import what training needs, which takes seconds. A worker that is asked to stop does not wait for the end of that."""
    errors: list[BaseException] = []

    def warm_up() -> None:
        try:
            context.processes.warm_up()
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that can act on it
            errors.append(error)

    thread = threading.Thread(target=warm_up, name="warm-up", daemon=True)
    thread.start()
    while thread.is_alive() and not context.stopping.is_set():
        thread.join(WARM_UP_POLL_SECONDS)
    if errors:
        raise errors[0]


def _run_jobs(context: WorkerContext) -> None:
    """Run jobs until the worker is asked to stop, and wait for the end of those that run."""
    slots = Slots(context)
    arrivals = Arrivals(None if context.settings.broker_url else context.database, context.stopping)
    arrivals.start()
    pollers = start_polling(context, slots, arrivals)
    _consume_wake_ups(context, slots)
    context.stopping.wait()
    for poller in pollers:
        poller.join()
    slots.wait_until_free()


def _engines(settings: Settings) -> tuple[str, ...]:
    found = tensorflow_environment.versions(settings.tensorflow())
    if found is None and settings.tensorflow_python is not None:
        log.warning("TUNESMITH_TENSORFLOW_PYTHON: %s has no TensorFlow", settings.tensorflow_python)
    return tuple(name for name in ENGINE_FACTS if name != "tensorflow" or found is not None)


def _memory_of_training(settings: Settings, gpus: Sequence[str]) -> int | None:
    if settings.training_memory_bytes is not None:
        return settings.training_memory_bytes or None
    return None if gpus else int(machine_bytes() * MEMORY_SHARE) // settings.slots


def _open(settings: Settings, gpus: Sequence[str], queues: tuple[str, ...], memory_bytes: int | None) -> WorkerContext:
    storage = open_storage(settings.storage())
    return WorkerContext(
        worker_id=new_id("wrk"),
        queues=(*queues, "any"),
        offer=Offer(_engines(settings), settings.models()),
        settings=settings,
        policy=RetryPolicy.of(settings),
        database=Database(settings.database(), lock_seconds=LOCK_SECONDS),
        storage=storage,
        copies=LocalCopies(storage, settings.cache(), settings.cache_limit_bytes),
        processes=TrainingProcesses(_sandbox(settings)),
        memory_bytes=memory_bytes,
        workspaces=settings.cache() / "work",
        threads_a_slot=settings.threads_per_slot or max(1, len(os.sched_getaffinity(0)) // settings.slots),
        gpus=FreeGpus(gpus),
    )


def _sandbox(settings: Settings) -> SandboxSettings:
    return SandboxSettings(
        mode=settings.sandbox,
        readable=[Path(path) for path in settings.sandbox_readable.split(os.pathsep) if path],
        writable=[Path(path) for path in settings.sandbox_writable.split(os.pathsep) if path],
        hidden=[settings.data_dir.absolute(), settings.cache(), settings.models()],
    )


def _consume_wake_ups(context: WorkerContext, slots: Slots) -> None:
    if context.settings.broker_url:
        from worker.celery import start_consuming  # noqa: PLC0415 - one machine without a broker does without Celery

        start_consuming(context, slots)


if __name__ == "__main__":
    main()
