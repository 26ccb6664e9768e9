"""Claims take a free GPU, and ends of attempts return it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from app.jobs.tables import Job
from worker.gpus import FreeGpus, Queues

CPU: Queues = ("cpu", "any")
GPU: Queues = ("cpu", "gpu", "any")


def claimed(gpus: FreeGpus, queue: str | None, queues: Queues = GPU) -> tuple[Queues, str | None]:
    """The queues that a claim asks for, and the GPU that it gets with a job of `queue`."""
    asked: list[Queues] = []

    def claim(queues: Queues) -> Job | None:
        asked.append(queues)
        return Job(queue=queue) if queue in queues else None

    gpu = gpus.claim(queues, claim)[1]
    return asked[0], gpu


def test_a_job_that_may_use_a_gpu_gets_one_of_its_own_and_waits_while_none_is_free() -> None:
    gpus = FreeGpus(["a", "b"])
    assert claimed(gpus, "gpu") == (GPU, "a")
    assert claimed(gpus, "any") == (GPU, "b")
    assert claimed(gpus, "gpu") == (("cpu",), None)
    gpus.give_back("a")
    assert claimed(gpus, "gpu") == (GPU, "a")


@pytest.mark.parametrize("queue", ["cpu", None])
def test_a_claim_without_use_for_a_gpu_leaves_it_free(queue: str | None) -> None:
    gpus = FreeGpus(["a"])
    assert claimed(gpus, queue) == (GPU, None)
    assert claimed(gpus, "gpu") == (GPU, "a")


def test_a_claim_that_fails_leaves_the_gpu_free() -> None:
    gpus = FreeGpus(["a"])
    with pytest.raises(ZeroDivisionError):
        gpus.claim(GPU, lambda _: 1 // 0)  # pyright: ignore[reportArgumentType]
    assert claimed(gpus, "gpu") == (GPU, "a")


def test_a_worker_without_gpus_claims_jobs_that_can_run_on_either() -> None:
    gpus = FreeGpus([])
    for _ in range(2):
        assert claimed(gpus, "any", CPU) == (CPU, None)
        gpus.give_back(None)


def test_a_gpu_that_a_slot_holds_only_for_a_claim_does_not_look_busy_to_another() -> None:
    gpus, claiming, go_on = FreeGpus(["a"]), Event(), Event()

    def finds_nothing(_: Queues) -> None:
        claiming.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(gpus.claim, GPU, finds_nothing)
        assert claiming.wait(60)
        second = pool.submit(claimed, gpus, "gpu")
        go_on.set()
        assert first.result(60) == (None, None)
        assert second.result(60) == (GPU, "a")
