"""The free GPUs of a worker. A claim takes a GPU, and the end of the attempt returns it."""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock

from app.jobs.tables import Job

Queues = tuple[str, ...]


class FreeGpus:
    """The GPUs that no job of this worker uses, each under its name in CUDA_VISIBLE_DEVICES.

    Slots share it. Claims run one at a time: a GPU that one slot only holds for a claim must not look busy to another.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._free = deque(names)
        self._claiming = Lock()

    def claim(self, queues: Queues, claim: Callable[[Queues], Job | None]) -> tuple[Job | None, str | None]:
        """Claim a job of these queues, together with a free GPU if the job may use one.

        While no GPU is free, a GPU worker claims only jobs of the queue `cpu`. The caller returns the GPU with
        `give_back`.
        """
        with self._claiming:
            gpu = self._free.popleft() if self._free else None
            job = None
            try:
                job = claim(("cpu",) if "gpu" in queues and gpu is None else queues)
            finally:
                if gpu is not None and (job is None or job.queue == "cpu"):
                    self._free.appendleft(gpu)
                    gpu = None
            return job, gpu

    def give_back(self, gpu: str | None) -> None:
        """Return the GPU of an attempt that has ended; None if it had none."""
        if gpu is not None:
            self._free.append(gpu)
