"""The hardware of this machine, read without CUDA, because a fork must never inherit a CUDA context."""

import os
import platform
import shutil
import subprocess
from typing import Any

COLUMNS = "uuid,name,memory.total"
MIG = "MIG-"


def gpus() -> list[dict[str, Any]]:
    """The NVIDIA GPUs of this worker, with uuid, name and memory_mib.

    These are the GPUs that nvidia-smi lists, restricted to those of CUDA_VISIBLE_DEVICES, in its order. An index counts in
    the order of nvidia-smi, which is that of the PCI bus.
    """
    listed = _listed()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed if allowed is None else _selected(listed, allowed)


def _listed() -> list[dict[str, Any]]:
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(
        ["nvidia-smi", f"--query-gpu={COLUMNS}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    if listing.returncode != 0:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in listing.stdout.splitlines() if line.count(",") >= 2]  # noqa: PLR2004 - COLUMNS
    return [
        # A device that shares the memory of the machine has no memory of its own: "[N/A]".
        {"uuid": uuid, "name": ",".join(name), "memory_mib": int(memory) if memory.isdigit() else None}
        for uuid, *name, memory in rows
    ]


def _selected(listed: list[dict[str, Any]], allowed: str) -> list[dict[str, Any]]:
    # As CUDA reads it: the list ends at the first entry that is no device, such as -1.
    found: list[dict[str, Any]] = []
    for entry in map(str.strip, allowed.split(",")):
        gpu = _named(listed, entry)
        if gpu is None:
            break
        if gpu not in found:
            found.append(gpu)
    return found


def _named(listed: list[dict[str, Any]], entry: str) -> dict[str, Any] | None:
    if entry.isdecimal():
        return listed[int(entry)] if int(entry) < len(listed) else None
    if entry.startswith(MIG) and listed:
        # A part of a GPU. nvidia-smi does not list its name and memory in a table.
        return {"uuid": entry, "name": "MIG device", "memory_mib": None}
    # CUDA accepts the beginning of a UUID if it is unique.
    matches = [gpu for gpu in listed if entry.startswith("GPU-") and gpu["uuid"].startswith(entry)]
    return matches[0] if len(matches) == 1 else None


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
