"""The broker dies, forgets, hangs, or repeats itself."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest
from deployment import Answer, Deployment, Process, wait_until
from injection import unhurried, visibility_timeout
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from servers import RedisServer, free_port, redis_server
from tiny import spec

from app.jobs.wakeup import WAKE_TASK, CeleryWakeup

QUICK_SECONDS = 5.0
QUEUE = "any"
SHORT = spec(training={"max_steps": 20}, data={"eval": None})
ENDLESS = spec(training={"max_steps": 1_000_000, "logging_steps": 100}, data={"eval": None})


@dataclass
class Broker:
    """A Redis-protocol server that a test may end, and start again on the same port."""

    stack: ExitStack
    port: int
    server: RedisServer

    @property
    def url(self) -> str:
        return self.server.url

    def start(self) -> None:
        """Serve the port again."""
        self.server = self.stack.enter_context(redis_server(self.port))

    def is_gone(self) -> None:
        """See that nobody answers at the port any more."""
        with pytest.raises(RedisConnectionError):
            self.ask("PING")

    def ask(self, *command: str) -> object:
        with Redis.from_url(self.url, socket_timeout=60) as client:
            return client.execute_command(*command)


@pytest.fixture
def broker() -> Iterator[Broker]:
    port = free_port()
    with ExitStack() as stack:
        yield Broker(stack, port, stack.enter_context(redis_server(port)))


@pytest.fixture
def served(fleet: Deployment, broker: Broker) -> Deployment:
    """The fleet on a broker of its own, with an API."""
    fleet.settings["TUNESMITH_BROKER_URL"] = broker.url
    fleet.start_api()
    return fleet


def post(service: Deployment, body: Answer = SHORT) -> str:
    """Post a job, and see that no broker keeps the request waiting."""
    began = time.monotonic()
    answer = service.http.post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    assert time.monotonic() - began < QUICK_SECONDS
    return str(answer.json()["id"])


def starts(service: Deployment, job_id: str, seconds: float = 15) -> None:
    service.wait_for(job_id, lambda seen: seen["status"] != "queued", seconds)


def succeeds_at_once(service: Deployment, job_id: str) -> None:
    done = service.wait_for_end(job_id, 90)
    assert (done["status"], done["attempt"]) == ("succeeded", 1), done


def cancelled(service: Deployment, job_id: str) -> None:
    service.client.post(f"/v1/jobs/{job_id}/cancel")
    done = service.wait_for_end(job_id, 90)
    assert (done["status"], done["attempt"]) == ("cancelled", 1), done


def wakes(*workers: Process) -> int:
    return sum(worker.log.count(f"Task {WAKE_TASK}") for worker in workers)


def hints_arrive(service: Deployment, worker: Process) -> None:
    """See that what the API sends wakes the worker, though the first hint after a fault may be lost."""
    before, deadline = wakes(worker), time.monotonic() + 60
    while wakes(worker) == before:
        assert time.monotonic() < deadline, worker.log[-3000:]
        succeeds_at_once(service, post(service))
        time.sleep(1)


def shut_down(broker: Broker, server: RedisServer) -> None:
    with suppress(RedisConnectionError):
        broker.ask("SHUTDOWN", "NOSAVE")


def kill(broker: Broker, server: RedisServer) -> None:
    os.kill(server.pid, signal.SIGKILL)


@pytest.mark.faults
@pytest.mark.parametrize("end", [shut_down, kill])
def test_jobs_start_without_the_broker_and_are_woken_when_it_is_back(
    served: Deployment, broker: Broker, end: Callable[[Broker, RedisServer], None]
) -> None:
    worker = served.start_worker()
    hints_arrive(served, worker)
    end(broker, broker.server)
    broker.is_gone()
    for _ in range(2):
        job = post(served)
        starts(served, job)
        succeeds_at_once(served, job)
    broker.start()
    hints_arrive(served, worker)
    assert worker.stop(signal.SIGTERM, patience=30) == 0


@pytest.mark.faults
def test_a_broker_that_forgets_everything_delays_no_job(served: Deployment, broker: Broker) -> None:
    worker = served.start_worker(**unhurried())
    busy = post(served, ENDLESS)
    starts(served, busy)
    waiting = [post(served) for _ in range(3)]
    broker.ask("FLUSHALL")
    cancelled(served, busy)
    for job in waiting:
        succeeds_at_once(served, job)
    hints_arrive(served, worker)


@pytest.mark.faults
def test_a_broker_that_does_not_answer_for_a_while_keeps_nothing_waiting(served: Deployment, broker: Broker) -> None:
    worker = served.start_worker()
    hints_arrive(served, worker)
    os.kill(broker.server.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            job = post(served)
            starts(served, job)
            succeeds_at_once(served, job)
    finally:
        os.kill(broker.server.pid, signal.SIGCONT)
    hints_arrive(served, worker)


@pytest.mark.faults
def test_a_job_outlasts_the_brokers_visibility_timeout_and_runs_once(served: Deployment, broker: Broker) -> None:
    workers = [served.start_worker(**visibility_timeout(5) | unhurried()) for _ in range(2)]
    jobs = [post(served, ENDLESS) for _ in workers]
    for job in jobs:
        starts(served, job)
    wakeup, end = CeleryWakeup(broker.url), time.monotonic() + 20
    while time.monotonic() < end:
        wakeup.hint(QUEUE)
        time.sleep(1)
    for job in jobs:
        cancelled(served, job)
    assert [len(worker.training_pids) for worker in workers] == [1, 1]


@pytest.mark.faults
def test_the_same_wake_up_fifty_times_is_one_run(served: Deployment, broker: Broker) -> None:
    served.settings["TUNESMITH_POLL_SECONDS"] = "50"
    workers = [served.start_worker("--slots", "2", **unhurried()) for _ in range(2)]
    for worker in workers:
        wait_until(lambda log=worker: "ready" in log.log, worker)
    wakeup = CeleryWakeup(broker.url)
    job = post(served, spec(training={"max_steps": 200}, data={"eval": None}))
    for _ in range(50):
        wakeup.hint(QUEUE)
    succeeds_at_once(served, job)
    assert sum(len(worker.training_pids) for worker in workers) == 1
    deadline = time.monotonic() + 30
    while wakes(*workers) < 50 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert wakes(*workers) >= 50


def test_a_worker_that_starts_without_its_broker_runs_jobs_and_stops_when_asked(fleet: Deployment) -> None:
    fleet.settings["TUNESMITH_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    fleet.start_api()
    worker = fleet.start_worker()
    succeeds_at_once(fleet, post(fleet))
    assert worker.stop(signal.SIGTERM, patience=30) == 0


def test_a_wake_up_starts_a_job_long_before_the_poll_would(fleet: Deployment) -> None:
    fleet.settings.update({"TUNESMITH_POLL_SECONDS": "50", "TUNESMITH_SWEEP_SECONDS": "50"})
    fleet.start_api()
    worker = fleet.start_worker()
    wait_until(lambda: "ready" in worker.log, worker)
    starts(fleet, post(fleet), 20)
