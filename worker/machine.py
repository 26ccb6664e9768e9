"""What this machine offers, found without touching CUDA: a fork must never inherit a CUDA context."""

import os
import platform
import shutil
import subprocess
from typing import Any


def gpus() -> list[dict[str, Any]]:
    """The NVIDIA GPUs that nvidia-smi lists, as name and memory_mib; honours CUDA_VISIBLE_DEVICES being empty."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or shutil.which("nvidia-smi") is None:
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
    return [{"name": name.strip(), "memory_mib": int(memory)} for name, memory in rows if memory.strip().isdigit()]


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
