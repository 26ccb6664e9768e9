"""Copies the reports and the output of the training process into the database, in order and exactly once.

It reads files, so a slow database never blocks training. It continues where it stopped: an offset moves only after its
commit.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from app.db import DATABASE_AWAY, Database
from app.jobs import events, lifecycle, queries
from app.jobs.events import Entry
from app.jobs.lifecycle import Lease

log = logging.getLogger(__name__)

Record = dict[str, Any]
BATCH_BYTES = 256 * 1024
LOG_LIMIT_CHARACTERS = 5_000_000
PROGRESS_SECONDS = 2.0
PROGRESS_EVENTS = 500
"""The longer a run, the further apart its progress events: about this many in all."""


class Relay:
    """Reads an attempt's files from where it stopped.

    `on_record` is called once with each record as soon as it is read, before the database is needed. A checkpoint is
    secured there before training rotates it away, even while the database is slow or unreachable.
    """

    def __init__(
        self, database: Database, lease: Lease, reports: Path, output: Path, on_record: Callable[[Record], None]
    ) -> None:
        self._database, self._lease, self._on_record = database, lease, on_record
        self._reports, self._output = _Tail(reports), _Tail(output)
        self._shown = _Tail(reports)
        self.job_id = lease.job_id
        self._log_characters = 0
        self._started = self._last_progress = time.monotonic()
        self.result: Record | None = None
        self.resolved: Record | None = None
        """What this attempt resolved; None if an earlier attempt had."""
        self.phase = "preparing"
        self.has_progress = False
        """Whether a step was reported."""

    def forward(self) -> bool:
        """Copy all complete lines that exist now.

        Raises LostLease. False if the database is unreachable: the next call tries again from the same place. Other
        errors of the database are raised.
        """
        self._show_records()
        try:
            for lines, end in self._reports.lines():
                self._show_records()
                self._forward_records([record for line in lines if (record := _parsed(line)) is not None], end)
                self._reports.advance(end)
            self._forward_output()
        except DATABASE_AWAY as error:
            log.warning("job %s: reports wait, the database does not answer: %s", self._lease.job_id, error)
            return False
        return True

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of text output."""
        return "\n".join(self._output.last_bytes(8192).decode("utf-8", "replace").splitlines()[-lines:])

    def _show_records(self) -> None:
        for lines, end in self._shown.lines():
            for line in lines:
                record = _parsed(line)
                if record is None:
                    # Half a line, left by a write that met a full disk; what follows is whole again.
                    log.warning("job %s: a report that is not JSON was skipped: %.100r", self.job_id, line)
                else:
                    self._on_record(record)
            self._shown.advance(end)

    def _forward_records(self, records: list[Record], end: int) -> None:
        entries: list[Entry] = []
        columns: dict[str, Any] = {}
        for record in records:
            kind = record["type"]
            data = {key: value for key, value in record.items() if key not in ("type", "time")}
            if kind == "phase":
                columns["phase"] = self.phase = data["phase"]
            elif kind in ("resolved", "preflight"):
                columns[kind] = data[kind]
            elif kind == "progress":
                columns["progress"], self.has_progress = data, True
                if not self._progress_is_due(data):
                    continue
            # The checkpoint event is written with its row, when it is in storage; the result by the transition. What was
            # found before training is stored in the job, and the process reports its warnings as notes.
            if kind not in ("checkpoint", "result", "preflight"):
                entries.append(events.reported(kind, data))
        self.resolved = columns.get("resolved", self.resolved)
        if entries or columns:
            self._record(entries, columns, end)
        for record in records:
            if record["type"] == "result":
                self.result = record

    def _record(self, entries: list[Entry], columns: dict[str, Any], end: int) -> None:
        with self._database.write() as session:
            if found := columns.get("preflight"):
                # An earlier attempt may have found out more than this one has so far.
                columns["preflight"] = {**queries.preflight(session, self.job_id), **found}
            lifecycle.record(session, self._lease, entries, read_to=end, **columns)

    def _progress_is_due(self, data: Record) -> bool:
        now = time.monotonic()
        gap = max(PROGRESS_SECONDS, (now - self._started) / PROGRESS_EVENTS)
        if now - self._last_progress < gap and data["step"] < data["of"]:
            return False
        self._last_progress = now
        return True

    def _forward_output(self) -> None:
        for chunk, end in self._output.chunks():
            text = chunk.decode("utf-8", "replace")
            if self._log_characters < LOG_LIMIT_CHARACTERS:
                with self._database.write() as session:
                    lifecycle.log(session, self._lease, self._output.offset, text)
                self._log_characters += len(text)
            self._output.advance(end)


class _Tail:
    """A growing file, read in complete lines from an offset."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0
        self._end: int | None = None

    def advance(self, end: int) -> None:
        """Continue after what is now in the database."""
        self.offset, self._end = end, None

    def _batch(self, file: BinaryIO) -> bytes:
        # A batch whose commit failed is read again with the same end, even if the file has grown. The commit may have
        # taken effect, and the database can recognize only the same batch.
        file.seek(self.offset)
        return file.read(BATCH_BYTES if self._end is None else self._end - self.offset)

    def lines(self) -> Iterator[tuple[list[bytes], int]]:
        """Yield (whole lines, the offset after them); the caller advances."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            while True:
                data = self._batch(file)
                # A record may be longer than a batch: read on to its end.
                data += b"" if b"\n" in data else file.readline()
                whole = data.rfind(b"\n") + 1
                if not whole:
                    return
                self._end = self.offset + whole
                yield data[:whole].splitlines(), self._end

    def chunks(self) -> Iterator[tuple[bytes, int]]:
        """Yield (bytes, the offset after them). A batch ends at a line end if it has one."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            while True:
                data = self._batch(file)
                if not data:
                    return
                whole = data.rfind(b"\n") + 1 or len(data)
                self._end = self.offset + whole
                yield data[:whole], self._end

    def last_bytes(self, count: int) -> bytes:
        if not self._path.exists():
            return b""
        with self._path.open("rb") as file:
            file.seek(max(0, self._path.stat().st_size - count))
            return file.read()


def _parsed(line: bytes) -> Record | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
