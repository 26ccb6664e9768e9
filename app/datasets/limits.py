"""How much of the machine one upload may use."""

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class UploadLimits:
    """Limits for inspecting one file. The defaults suit a service with a few GiB of free memory."""

    memory_bytes: int = 4 * GIB
    """Address space of the process that parses."""
    timeout_seconds: float = 600.0
    """How long it may take in wall time; it may use twice that in processor time."""
    unpacked_bytes: int = 64 * GIB
    """Bytes of the file after decompression: a limit for gzip bombs."""
    record_bytes: int = 16 << 20
    """Bytes of one line, one CSV field or one JSON row."""
    columns: int = 1000
    """Columns, and keys of one nested object."""
    rows: int = 100_000_000
    """Rows of one file."""
