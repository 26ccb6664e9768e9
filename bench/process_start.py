"""How long it takes until a process can train: from the warm forkserver, and from a fresh interpreter.

Both import the same. Prints the ratio of the medians. Each child ends as soon as it could start training.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from worker.processes import TrainingProcesses
from worker.reach import SandboxSettings
from worker.training.threads import spin_briefly

RUNS = 5
COLD = [sys.executable, "-P", "-c", "import worker.training.warm"]


def main() -> None:
    """Measure both alternately, and print."""
    spin_briefly()
    processes = TrainingProcesses(SandboxSettings("auto", [], [], []))
    processes.warm_up()
    warm, cold = [], []
    for _ in range(RUNS):
        warm.append(_seconds(processes.warm_up))
        cold.append(_seconds(lambda: subprocess.run(COLD, check=True)))
    print(
        f"warm forkserver: {statistics.median(warm) * 1000:.0f} ms (of {RUNS}: {min(warm) * 1000:.0f} to "
        f"{max(warm) * 1000:.0f})"
    )
    print(
        f"fresh interpreter: {statistics.median(cold) * 1000:.0f} ms (of {RUNS}: {min(cold) * 1000:.0f} to "
        f"{max(cold) * 1000:.0f})"
    )
    print(f"ratio: {statistics.median(cold) / statistics.median(warm):.0f}")


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
