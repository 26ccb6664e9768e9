"""Durations such as `90s` or `6h`."""

import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 30 * UNITS["d"]


def seconds(text: str) -> int:
    """Read "90s", "30m", "6h" or "2d" as seconds. Raises ValueError outside 1 second to 30 days."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        raise ValueError("a duration is a whole number and s, m, h or d, such as '90s' or '6h'")
    value = int(match[1]) * UNITS[match[2]]
    if not 1 <= value <= LONGEST:
        raise ValueError("a duration must be from 1s to 30d")
    return value
