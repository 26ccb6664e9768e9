"""What a job needs of a worker, as one value: jobs with the same value can be run by the same workers."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any


def needs_of(queue: str, engine: str, features: Sequence[str] | None) -> str:
    """A digest of 32 hexadecimal digits, the same in every version of the service."""
    parts = [queue, engine, sorted(features) if features is not None else None]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()[:32]


def needs_of_insert(context: Any) -> str:
    """The value for a job that SQLAlchemy is about to insert."""
    row = context.get_current_parameters()
    return needs_of(row["queue"], row.get("engine") or "trainer", row.get("features"))
