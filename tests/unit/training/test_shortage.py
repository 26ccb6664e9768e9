"""Memory and disk that run out are recognised in the words of every library that meets them."""

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from worker.training.shortage import shortage_of

WANTS = {
    "torch": "import torch; torch.zeros(1 << 34)",
    "numpy": "import numpy; numpy.ones(1 << 34)",
    "python": "x = bytearray(1 << 40)",
    "pyarrow": "import pyarrow; pyarrow.allocate_buffer(1 << 40)",
}


@pytest.mark.parametrize("library", WANTS)
def test_real_allocations_that_fail_are_recognised(library: str, tmp_path: Path) -> None:
    limit = 1 << 32
    script = f"""
import resource, sys, torch, numpy, pyarrow
from pathlib import Path
from worker.training.shortage import shortage_of
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
try:
    {WANTS[library]}
except BaseException as error:
    print(shortage_of(error, Path({str(tmp_path)!r})).code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "out_of_memory"
    assert limit > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_what_a_library_makes_of_a_full_disk_is_recognised(tmp_path: Path) -> None:
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    found = shortage_of(wrapped, tmp_path)
    assert found is not None
    assert (found.code, found.failure.retryable) == ("disk_full", True)
    rust = Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (found := shortage_of(rust, tmp_path)) is not None
    assert found.code == "disk_full"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RuntimeError("mat1 and mat2 shapes"),
        OSError(errno.ENOENT, "no such file"),
        pa.ArrowInvalid("x"),
    ],
)
def test_other_errors_are_none_of_them(error: Exception, tmp_path: Path) -> None:
    assert shortage_of(error, tmp_path) is None


def test_cuda_says_it_in_its_own_type(tmp_path: Path) -> None:
    found = shortage_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), tmp_path)
    assert found is not None
    assert found.code == "out_of_memory"
    assert found.failure.details["peak_bytes"] > 0
