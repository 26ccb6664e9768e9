"""The poll: finds work with or without a broker. Wake-ups only make it quicker."""

import threading

from worker.context import WorkerContext
from worker.slots import Slots


def start_polling(context: WorkerContext, slots: Slots) -> list[threading.Thread]:
    """Start one thread a slot, each looking for work every `poll_seconds` until the worker stops."""

    def poll() -> None:
        while not context.stopping.is_set():
            slots.run_until_idle()
            context.stopping.wait(context.settings.poll_seconds)

    threads = [threading.Thread(target=poll, name=f"poll-{number}") for number in range(context.settings.slots)]
    for thread in threads:
        thread.start()
    return threads
