"""Settings of the memory allocator of glibc, for a process that trains."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
OPTIONS = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: (1 << 31) - 1, M_TOP_PAD: 64 << 20}
"""In bytes; the first is the largest that glibc takes."""


def keep_freed_memory() -> None:
    """Keep freed memory for the next tensors (mallopt(3)). Call it before other threads are started.

    By default glibc returns each large tensor to the kernel as soon as it is freed, and the kernel fills the pages of the
    next one with zeros. That was a twentieth of a step of a BERT encoder over 512 tokens.
    """
    for option, value in OPTIONS.items():
        ctypes.CDLL(None).mallopt(option, value)
