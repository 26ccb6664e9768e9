"""The memory of a training process, and whether the kernel killed it because memory ran out."""

import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
WINDOW_SECONDS = 30.0
SIGNS = ("std::bad_alloc", "memory allocation of", "Cannot allocate memory", "can't allocate memory", "out of memory")
"""What native code writes before it aborts because memory ran out."""


class MemoryWatch:
    """Watches the memory of a process. Call `sample` regularly while it lives, and read the results afterwards."""

    def __init__(self, pid: int) -> None:
        self._proc = PROC / str(pid)
        self._seen: dict[Path, deque[tuple[float, int]]] = {}
        self.peak_bytes: int | None = None
        """The largest resident size that was sampled."""
        self.sample()

    def sample(self) -> None:
        """Update the peak, and the kernel's count of out-of-memory kills in the process's control group."""
        with suppress(OSError):
            # It may end at any time.
            self.peak_bytes = _peak(self._proc / "status") or self.peak_bytes
            counter = _counter(self._proc / "cgroup")
            if counter is not None:
                _note(self._seen.setdefault(counter, deque()), _kills(counter))

    def kernel_killed(self) -> bool:
        """Whether the kernel killed a process of the control group within the last half minute because memory ran out.

        Earlier kills do not count: the group may be shared, and they may have hit another process.
        """
        return any(_kills(counter) > seen[0][1] for counter, seen in self._seen.items())


def _note(seen: deque[tuple[float, int]], kills: int) -> None:
    now = time.monotonic()
    seen.append((now, kills))
    # The first of a window that is longer than a large process takes to die.
    while len(seen) > 1 and seen[1][0] < now - WINDOW_SECONDS:
        seen.popleft()


def machine_bytes() -> int:
    """The memory of this machine, or of its container if that has a limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [physical]
    with suppress(OSError, ValueError):
        limits.append(int((CGROUPS / "memory.max").read_text()))
    with suppress(OSError, ValueError):
        limits.append(int((CGROUPS / "memory" / "memory.limit_in_bytes").read_text()))
    return min(limits)


def says_out_of_memory(output: str) -> bool:
    """Whether the end of a process's output shows that an allocation failed."""
    return any(sign in output for sign in SIGNS)


def _peak(status: Path) -> int | None:
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _counter(membership: Path) -> Path | None:
    """The file that counts out-of-memory kills in a control group (cgroups(7)), in version 2 or 1; None without either."""
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found = _first(CGROUPS / path.lstrip("/") / "memory.events", CGROUPS / "memory.events")
        elif controllers == "memory":
            top = CGROUPS / "memory"
            found = _first(top / path.lstrip("/") / "memory.oom_control", top / "memory.oom_control")
        else:
            continue
        if found is not None:
            return found
    return None


def _first(*files: Path) -> Path | None:
    # In a container, the path of a group may be that of the host, while its files are at the top.
    return next((file for file in files if file.is_file()), None)


def _kills(counter: Path) -> int:
    with suppress(OSError):
        for line in counter.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0
