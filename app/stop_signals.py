"""SIGTERM and SIGINT as an event."""

import _thread
import signal
import threading


def stop_on_signals(stopping: threading.Event) -> None:
    """Set the event at SIGTERM or SIGINT. Call it in the main thread."""

    def stop(number: int, frame: object) -> None:
        # A handler interrupts the main thread, which may hold the lock of this event at that moment: to set it here would
        # then wait forever. `threading.Thread` takes a lock too.
        _thread.start_new_thread(stopping.set, ())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
