"""The training process reports as JSON lines in `OUT_DIR/reports.jsonl`, one whole line a record.

Every record has `type` and `time` (seconds since the epoch):

    phase       phase: preparing, downloading, tokenizing, training, evaluating or packaging
    resolved    resolved: what defaults and `auto` became, where the request brought none; again where the sequences of
                train, once they are counted, make other steps than its rows would
    preflight   preflight: download, data, tokens, steps, warnings; all that was found out so far, each time
    progress    step, of, epoch, samples_per_second, eta_seconds; about one a second
    metric      step, epoch, values: names as the Hugging Face Trainer logs them (loss, eval_accuracy, test_f1 …)
    note        message: something a user should see
    checkpoint  step, epoch, path (relative to OUT_DIR), metrics, is_best
    result      status: succeeded, stopped or failed; step; metrics?, model_path?, error?, retryable?
"""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

log = logging.getLogger(__name__)

Record = dict[str, Any]
FILE_NAME = "reports.jsonl"


class Reporter:
    """Appends records to the file, and hands each to a listener where there is one. Safe to call from threads.

    Every method raises OSError where the disk takes no whole line; the file then ends with the line before it. What a
    listener raises is logged: a listener cannot fail the run.
    """

    def __init__(self, out_dir: Path, listener: Callable[[Record], None] | None = None) -> None:
        out_dir.mkdir(parents=True, exist_ok=True)
        self.step = 0
        """The last step that a record spoke of; where the result of a failed run says it was."""
        self._path = out_dir / FILE_NAME
        self._listener = listener
        self._found: Record = {}
        self._notes: set[str] = set()
        self.series: dict[str, list[float]] = {}
        """The metrics of this attempt by name, in the order of the steps."""
        self.warnings: list[str] = []
        """What this attempt warned of, for the model card."""
        self._lock = threading.Lock()
        _drop_half_line(self._path)

    def alive(self) -> None:
        """Show that the process is alive where there is nothing to report, such as half-way through a long evaluation."""
        os.utime(self._path)

    def phase(self, phase: str) -> None:
        """Say what the run does now."""
        self._append("phase", phase=phase)

    def resolved(self, resolved: Mapping[str, Any]) -> None:
        """Say what defaults and `auto` became."""
        self._append("resolved", resolved=dict(resolved))

    def preflight(self, **found: Any) -> None:
        """Say what was found out before training, with what was said of it before."""
        self._found |= found
        self._append("preflight", preflight=self._found)

    def progress(
        self, *, step: int, of: int, epoch: float, samples_per_second: float | None, eta_seconds: float | None
    ) -> None:
        """Say how far training is."""
        self._append(
            "progress", step=step, of=of, epoch=epoch, samples_per_second=samples_per_second, eta_seconds=eta_seconds
        )

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Add one point to the metric series."""
        for name, value in values.items():
            if value is not None:
                self.series.setdefault(name, []).append(value)
        self._append("metric", step=step, epoch=epoch, values=dict(values))

    def note(self, message: str) -> None:
        """Show the user a message."""
        self._append("note", message=message)

    def warn(self, message: str) -> None:
        """Show the user a sign that something is wrong, now and in the model card."""
        self.warnings.append(message)
        self.note(message)
        self.preflight(warnings=self.warnings)

    def note_once(self, message: str) -> None:
        """Show the user a message, unless this process has shown it before."""
        if message not in self._notes:
            self._notes.add(message)
            self.note(message)

    def checkpoint(
        self, *, step: int, epoch: float, path: str, metrics: Mapping[str, float | None], is_best: bool
    ) -> None:
        """Announce a committed checkpoint folder."""
        self._append("checkpoint", step=step, epoch=epoch, path=path, metrics=dict(metrics), is_best=is_best)

    def result(self, status: str, step: int, **more: Any) -> None:
        """Report the end of the attempt. `more`: metrics, model_path, error, retryable."""
        self._append("result", status=status, step=step, **more)

    def _append(self, kind: str, **values: Any) -> None:
        # A checkpoint is reported when it is committed, and training has gone on.
        self.step = max(self.step, values.get("step", 0))
        record = cast("Record", _finite({"type": kind, "time": time.time(), **values}))
        line = json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        with self._lock:
            _write_line(self._path, line)
            self._notify(record)

    def _notify(self, record: Record) -> None:
        if self._listener is None:
            return
        try:
            self._listener(record)
        except Exception:
            log.exception("a listener could not take a record of type %s; the run goes on", record["type"])


def _write_line(path: Path, line: bytes) -> None:
    # A write may take only a part, on a disk that is nearly full or near a limit of file sizes.
    with path.open("ab", buffering=0) as file:
        begin = file.seek(0, os.SEEK_END)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(begin)
            raise


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in cast("list[Any]", value)]
    return value


def _drop_half_line(path: Path) -> None:
    # An attempt that was killed while it wrote leaves half a line, which would spoil the next record.
    if not path.exists():
        return
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
            os.fsync(file.fileno())
