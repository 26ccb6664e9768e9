"""The hardware of this machine, read without CUDA, because a fork must never inherit a CUDA context."""

import os
import platform
import shutil
import subprocess
from itertools import takewhile
from typing import Any


def gpus() -> list[dict[str, Any]]:
    """The NVIDIA GPUs that nvidia-smi lists, as name and memory_mib, and that CUDA_VISIBLE_DEVICES leaves to us."""
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    if listing.returncode != 0:
        return []
    rows = [line.rsplit(",", 1) for line in listing.stdout.splitlines() if "," in line]
    found = [{"name": name.strip(), "memory_mib": int(memory)} for name, memory in rows if memory.strip().isdigit()]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if allowed is None else found[: len(_entries(allowed))]


def visible_gpus(found: list[dict[str, Any]]) -> tuple[str, ...]:
    """How CUDA_VISIBLE_DEVICES names each of our GPUs: as the environment does, or by number."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(str(number) for number in range(len(found))) if allowed is None else _entries(allowed)[: len(found)]


def _entries(allowed: str) -> tuple[str, ...]:
    # As CUDA reads it: the list ends at the first entry that is no device, such as -1.
    entries = [entry.strip() for entry in allowed.split(",")]
    return tuple(takewhile(lambda entry: entry not in ("", "-1"), entries))


def describe() -> dict[str, Any]:
    """Cores, memory, GPUs and platform, as GET /v1/workers shows them."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "gpus": gpus(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
