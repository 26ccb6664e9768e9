"""Has the files of an upload parsed in a limited process, and stored as one Parquet."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import app
from app.datasets.columns import Column
from app.datasets.errors import IntakeLimit, UnusableFile, UploadAbandoned
from app.datasets.limits import GIB, UploadLimits

__all__ = ["Column", "InspectedFile", "Inspection", "IntakeLimit", "UnusableFile", "UploadLimits", "inspect"]

MIXED = "mixed"
LOOK_SECONDS = 0.2
"""How often somebody looks whether the client of an upload has left."""
SPLIT_IT = "split it into several datasets, or upload Parquet"
PASSED_ON = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "TZ")
"""The environment variables that the process gets: never a secret."""


@dataclass(frozen=True)
class InspectedFile:
    """The format and size of one file of an upload."""

    format: str
    compressed: bool
    rows: int


@dataclass(frozen=True)
class Inspection:
    """The content of an upload: each of its files, and the rows and columns of all of them together."""

    files: list[InspectedFile]
    rows: int
    columns: list[Column]

    @property
    def format(self) -> str:
        """The format of all files, or `mixed`."""
        formats = {file.format for file in self.files}
        return formats.pop() if len(formats) == 1 else MIXED


def inspect(
    files: Sequence[tuple[Path, str]], parquet: Path, *, limits: UploadLimits, abandoned: Event | None = None
) -> Inspection:
    """Parse files, whose names determine their formats, and write the rows of all to `parquet`, in that order.

    It appears whole or not at all, with the columns of the files and `_line`, the line of the file that each row starts
    in (for a JSON array and for Parquet, the row's number); where there are several files, also with `_file`, the name
    of
    the row's file. Raises UnusableFile for problems that the user can fix, IntakeLimit if parsing exceeds the limits,
    OSError if the disk is full, and UploadAbandoned once `abandoned` is set.
    """
    partial = parquet.absolute().with_name(f".{parquet.name}.partial")
    try:
        with tempfile.TemporaryDirectory(dir=partial.parent) as parts:
            answer = _ask(files, partial, parts, limits, abandoned or Event())
        if (error := answer.get("error")) is not None:
            raise _refusal(error, limits)
        partial.replace(parquet)
    finally:
        partial.unlink(missing_ok=True)
    return Inspection(
        files=[InspectedFile(**file) for file in answer["files"]],
        rows=answer["rows"],
        columns=[Column(**column) for column in answer["columns"]],
    )


def _refusal(error: dict[str, Any], limits: UploadLimits) -> Exception:
    match error["code"]:
        case "intake_memory":
            return _too_much_memory(limits)
        case "intake_disk":
            return OSError(errno.ENOSPC, "there is no space on the disk to store the file as Parquet")
        case _:
            return UnusableFile(**error)


def _ask(
    files: Sequence[tuple[Path, str]], parquet: Path, parts: str, limits: UploadLimits, abandoned: Event
) -> dict[str, Any]:
    named = [{"path": str(path.absolute()), "filename": filename} for path, filename in files]
    request = {"files": named, "parquet": str(parquet), "parts": parts, "limits": asdict(limits)}
    with tempfile.TemporaryFile() as complaints, tempfile.TemporaryFile() as asked:
        # Not a pipe: `communicate` forgets what it has not sent yet when its timeout comes first.
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        # -s and -P keep a user's own packages and the current folder out of the process.
        with subprocess.Popen(
            [sys.executable, "-s", "-P", "-m", "app.datasets.intake"],
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_environment(),
            cwd=parquet.parent,
            start_new_session=True,
        ) as process:
            try:
                output = _answer_of(process, limits, abandoned)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == 0:
            return json.loads(output)
        said = os.pread(complaints.fileno(), 1 << 20, 0).decode(errors="replace")
        raise _ended_badly(process.returncode, said, limits)


def _answer_of(process: subprocess.Popen[bytes], limits: UploadLimits, abandoned: Event) -> bytes:
    deadline = time.monotonic() + limits.timeout_seconds
    while not abandoned.is_set():
        try:
            return process.communicate(timeout=LOOK_SECONDS)[0]
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise _too_much_time(limits) from None
    raise UploadAbandoned


def _environment() -> dict[str, str]:
    root = Path(app.__file__).parent.parent
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # One memory pool and few arenas, because the limit counts address space instead of used memory.
    pools = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}
    return kept | pools | {"PYTHONPATH": str(root), "PYTHONUTF8": "1"}


def _ended_badly(returncode: int, said: str, limits: UploadLimits) -> UnusableFile:
    if -returncode in (signal.SIGXCPU, signal.SIGALRM):
        return _too_much_time(limits)
    if any(sign in said for sign in ("bad_alloc", "MemoryError", "Cannot allocate memory", "out of memory")):
        return _too_much_memory(limits)
    how = f"was ended by {signal.Signals(-returncode).name}" if returncode < 0 else f"ended with {returncode}"
    return UnusableFile(
        f"the process that parsed the file {how}, so the file was not accepted",
        "intake_crashed",
        hint="the file may be damaged; try another format, such as csv or jsonl",
    )


def _too_much_time(limits: UploadLimits) -> IntakeLimit:
    seconds = limits.timeout_seconds
    return IntakeLimit(f"parsing the upload takes more than {seconds:g} s", "intake_time", hint=SPLIT_IT)


def _too_much_memory(limits: UploadLimits) -> IntakeLimit:
    memory = limits.memory_bytes / GIB
    return IntakeLimit(f"parsing the upload takes more than {memory:.3g} GiB of memory", "intake_memory", hint=SPLIT_IT)
