"""The peak memory of training: of the GPU, or of the process that computes on the CPU."""

import resource
from pathlib import Path

import torch


def reset_peak(device: str, process: int | None = None) -> None:
    """Forget the peak so far, so that what tokenizing took does not count."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        # See proc(5). Where it is not allowed, the peak is that of the whole process.
        Path(f"/proc/{process or 'self'}/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes(device: str, process: int | None = None) -> int:
    """The most memory used since `reset_peak`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
