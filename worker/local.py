"""The poll: finds work with or without a broker. Wake-ups only make it quicker."""

import threading

from worker.arrivals import Arrivals
from worker.context import WorkerContext
from worker.slots import Slots


def start_polling(context: WorkerContext, slots: Slots, arrivals: Arrivals) -> list[threading.Thread]:
    """Start one thread a slot. Each looks for work every `poll_seconds`, and when a job may have arrived, until the worker stops."""

    def poll() -> None:
        while not context.stopping.is_set():
            count = arrivals.count
            slots.run_until_idle()
            arrivals.wait(count, context.settings.poll_seconds)

    threads = [threading.Thread(target=poll, name=f"poll-{number}") for number in range(context.settings.slots)]
    for thread in threads:
        thread.start()
    return threads
