"""The first code inside a training process: its own session, tied to its worker's life, output to a file."""

import ctypes
import multiprocessing
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path

from worker.reach import SandboxSettings, reach_of
from worker.sandbox import enter
from worker.training.allocator import keep_freed_memory
from worker.training.request import TrainingRequest

PR_SET_PDEATHSIG = 1
WARM = "worker.training.warm"


def main(request_file: str, log_file: str, gpu: str | None, sandbox: SandboxSettings) -> None:
    """Run one training request. The result is in the reports it writes; the exit code means nothing."""
    os.setsid()
    _die_with_the_forkserver()
    _be_the_first_to_go()
    keep_freed_memory()
    _write_output_to(Path(log_file))
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu or ""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    request = TrainingRequest.from_json(Path(request_file).read_text())
    reach = reach_of(request, gpu, sandbox)
    if request.memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (request.memory_bytes, request.memory_bytes))
    enter(reach, sandbox.mode)
    _die_with_the_worker()
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    is_cold = WARM not in sys.modules

    from worker.training.reports import Reporter  # noqa: PLC0415 - after the environment is set
    from worker.training.run import run  # noqa: PLC0415

    if request.threads is not None and request.threads > 1:
        # Read when the first texts are tokenized. Nothing is forked from this process.
        os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(request.threads)}
    report = Reporter(request.out_dir)
    if is_cold:
        report.note("cold start: the libraries were not preloaded, so this run took some seconds longer to begin")
    run(request, report, stop)


def nothing() -> None:
    """Do nothing. A process that only warms up the forkserver runs this."""


def _die_with_the_forkserver() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_the_worker() -> None:
    # The kernel's signal comes when the forkserver dies; the sentinel when the worker itself does.
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        select.select([sentinel], [], [])
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, name="worker-watch", daemon=True).start()


def _be_the_first_to_go() -> None:
    # If memory runs out, the kernel shall kill the training, which can resume, and not the worker or the database.
    Path("/proc/self/oom_score_adj").write_text("1000")


def _write_output_to(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    # Standard streams made before the fork may hold a buffer of their own.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
