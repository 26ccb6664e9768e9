"""Hints go out beside the requests."""

import threading

from app.api.hints import Hints


class _Slow:
    """A broker that answers when it is let to."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.asked, self.may_answer = threading.Event(), threading.Event()

    def hint(self, queue: str) -> None:
        self.asked.set()
        assert self.may_answer.wait(10)
        self.sent.append(queue)


def test_a_broker_that_does_not_answer_keeps_nobody_waiting_and_gets_no_flood() -> None:
    broker = _Slow()
    hints = Hints(broker)
    hints.give("cpu")
    assert broker.asked.wait(10)
    for _ in range(50):
        hints.give("cpu")
        hints.give("gpu")
    broker.may_answer.set()
    last = threading.Event()
    hints._executor.submit(last.set)  # noqa: SLF001 - behind all that were given
    assert last.wait(10)
    hints.close()
    assert broker.sent == ["cpu", "cpu", "gpu"]
