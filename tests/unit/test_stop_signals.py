"""A signal sets the event also where the main thread holds the event's lock."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from app.stop_signals import stop_on_signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_inside_of_a_wait_is_no_deadlock(number: signal.Signals) -> None:
    stopping = threading.Event()
    stop_on_signals(stopping)
    # This is where a wait is interrupted at the worst moment.
    with stopping._cond:  # type: ignore[attr-defined] # noqa: SLF001
        os.kill(os.getpid(), number)
    assert stopping.wait(10)
