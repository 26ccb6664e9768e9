"""The other end of the program in `keras/`: starts it in its environment, gives commands, and turns what goes wrong into our errors."""

import json
import os
import select
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from worker.training.errors import (
    ArchitectureUnsupported,
    DiskFull,
    InternalError,
    OutOfMemory,
    ProcessDied,
    Stopped,
    TrainingError,
)

PROGRAM = Path(__file__).parents[1] / "keras"
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""What the other environment gets of ours."""
POLL_SECONDS = 0.1

Answer = dict[str, Any]


class KerasProcess:
    """A context in which the process lives. It is in the process group of ours, and dies with us."""

    def __init__(self, python: Path, request: dict[str, Any], folder: Path) -> None:
        request_file = folder / "request.json"
        request_file.write_text(json.dumps({**request, "parent": os.getpid()}), encoding="utf-8")
        self._read = b""
        self._process = subprocess.Popen(
            [python, "-P", "-s", PROGRAM, request_file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )

    def __enter__(self) -> Self:
        """Nothing: it has begun to load already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See that it is gone: what it was asked to write is written, and it holds nothing else."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The pid of the process."""
        return self._process.pid

    def wait_until_ready(self, stop: threading.Event) -> None:
        """Wait for the model to be loaded. Raises Stopped, and what `ask` raises."""
        self._receive(stop, interrupts=False)

    def ask(self, do: str, **more: Any) -> Answer:
        """Give a command and wait for its answer. Raises the errors of training."""
        self._send(do, **more)
        return self._receive(None, interrupts=False)

    def ask_stoppable(self, stop: threading.Event, do: str, **more: Any) -> Answer:
        """The same for a step that may be left undone: it raises Stopped, and the process is of no more use."""
        self._send(do, **more)
        return self._receive(stop, interrupts=False)

    def ask_interruptible(self, stop: threading.Event, do: str, **more: Any) -> Answer:
        """The same for what can be left half done: it raises Stopped, and the process takes the next command."""
        self._send(do, **more)
        answer = self._receive(stop, interrupts=True)
        # It may have been done before it read the interrupt, which it then passes over.
        if answer["said"] == "interrupted" or stop.is_set():
            raise Stopped
        return answer

    def _send(self, do: str, **more: Any) -> None:
        pipe = cast("Any", self._process.stdin)
        try:
            pipe.write(json.dumps({"do": do, **more}).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            # Its last answer may still be unread; otherwise this says how it ended.
            raise _error(self._receive(None, interrupts=False)) from None

    def _receive(self, stop: threading.Event | None, *, interrupts: bool) -> Answer:
        pipe = cast("Any", self._process.stdout)
        while b"\n" not in self._read:
            if stop is not None and stop.is_set():
                if not interrupts:
                    raise Stopped
                self._send("interrupt")
                stop = None
            if select.select([pipe], [], [], POLL_SECONDS)[0]:
                piece = os.read(pipe.fileno(), 1 << 16)
                if not piece:
                    raise ProcessDied(f"the TensorFlow process ended with {self._process.wait()}")
                self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        answer: Answer = json.loads(line)
        if answer["said"] == "failed":
            raise _error(answer)
        return answer


def environment() -> dict[str, str]:
    """The environment variables of the process. Of this process's own variables it gets only those in `KEPT`."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_USE_LEGACY_KERAS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
        # It would read settings of the user's from the home directory, and write them.
        "KERAS_HOME": str(Path(tempfile.gettempdir()) / "keras"),
    }


def _error(said: Answer) -> TrainingError:
    message = said.get("message", "")
    match said.get("kind"):
        case "memory":
            return OutOfMemory(f"memory ran out in TensorFlow: {message}", details={"peak_bytes": said["peak_bytes"]})
        case "disk":
            return DiskFull(f"the disk has no room left: {message}")
        case "architecture":
            return ArchitectureUnsupported(f"TensorFlow's model is not PyTorch's: {message}")
        case _:
            return InternalError(f"TensorFlow: {message}")
