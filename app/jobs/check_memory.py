"""What earlier checks found, so that posting the same rows and model again, as a sweep does, costs no check."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256

from app.datasets.tables import Dataset
from app.specs import JobSpec
from app.specs.preflight import Findings

REMEMBERED = 512
MODEL_SECONDS = 5.0
"""A model that was there so recently is taken to be there still. A job whose model is gone fails with that reason."""


class CheckMemory:
    """The results of the most recent checks in which no problem was found. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._findings: OrderedDict[str, Findings] = OrderedDict()
        self._models: dict[str, float] = {}

    def get(self, key: str) -> Findings | None:
        """What was found, or None if this check is not remembered."""
        with self._lock:
            if key in self._findings:
                self._findings.move_to_end(key)
            return self._findings.get(key)

    def keep(self, key: str, findings: Findings) -> None:
        """Remember what was found."""
        with self._lock:
            self._findings[key] = findings
            if len(self._findings) > REMEMBERED:
                self._findings.popitem(last=False)

    def has_model(self, name: str) -> bool:
        """Whether a local model was found a moment ago."""
        return time.monotonic() < self._models.get(name, 0.0)

    def keep_model(self, name: str) -> None:
        """Remember that a local model was found."""
        with self._lock:
            if len(self._models) >= REMEMBERED:
                self._models.clear()
            self._models[name] = time.monotonic() + MODEL_SECONDS


def check_key(spec: JobSpec, rows: Mapping[str, str], row_limit: int) -> str:
    """Identifies a check by all that it depends on. `rows` is the sha256 of the rows of each split."""
    parts = {
        "task": spec.task.model_dump(mode="json"),
        "columns": dict(spec.columns),
        "on_bad_row": spec.data.on_bad_row,
        "metrics": list(spec.requested_metrics),
        "rows": dict(rows),
        "row_limit": row_limit,
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_hash(dataset: Dataset) -> str:
    """Identifies the rows of an upload: its bytes, and how they were read."""
    files = [(file["name"], file["format"], file["sha256"]) for file in dataset.files or ()]
    return sha256(json.dumps([dataset.sha256, dataset.format, files]).encode()).hexdigest()
