"""Single byte ranges (RFC 9110, section 14)."""

import re
from enum import Enum
from typing import Final


class Unsatisfiable(Enum):
    """The value for a range that contains no byte of the file."""

    UNSATISFIABLE = "unsatisfiable"


UNSATISFIABLE: Final = Unsatisfiable.UNSATISFIABLE


def requested_range(header: str | None, size: int) -> tuple[int, int] | Unsatisfiable | None:
    """The half-open range [start, end) that a Range header asks for, of a file of `size` bytes.

    None means the whole file: no header, another unit, a malformed one, or several ranges at once,
    which a server may ignore.
    """
    # Units are case-insensitive. More digits than int() accepts are not a number.
    match = re.fullmatch(r"bytes=\s*([0-9]{0,4000})-([0-9]{0,4000})\s*", header or "", re.IGNORECASE)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        wanted = int(match[2])
        return (max(0, size - wanted), size) if wanted and size else UNSATISFIABLE
    start = int(match[1])
    if match[2] and int(match[2]) < start:
        return None
    if start >= size:
        return UNSATISFIABLE
    return start, min(int(match[2]) + 1, size) if match[2] else size
