"""The poll: finds work with or without a broker. Wake-ups only make it quicker."""

import threading

from worker.parts import Parts
from worker.slots import Slots


def start_polling(parts: Parts, slots: Slots) -> list[threading.Thread]:
    """Start one thread a slot, each looking for work every `poll_seconds` until the worker stops."""

    def poll() -> None:
        while not parts.stopping.is_set():
            slots.run_until_idle()
            parts.stopping.wait(parts.settings.poll_seconds)

    threads = [threading.Thread(target=poll, name=f"poll-{number}") for number in range(parts.settings.slots)]
    for thread in threads:
        thread.start()
    return threads
