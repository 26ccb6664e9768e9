"""How much one upload may ask of the machine."""

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds on inspecting one file; the defaults suit a service with a few GiB to spare."""

    memory_bytes: int = 4 * GIB
    """Address space of the process that parses."""
    timeout_seconds: float = 600.0
    """How long it may take, by the clock; it may use twice that of processor time."""
    unpacked_bytes: int = 64 * GIB
    """Bytes of the file after gunzip; a bound on gzip bombs."""
    record_bytes: int = 16 << 20
    """Bytes of one line, one CSV field or one JSON row."""
    columns: int = 1000
    """Columns, and keys of one nested object."""
    rows: int = 100_000_000
    """Rows of one file."""
