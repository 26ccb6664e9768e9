"""Faults at exact moments inside the service's own processes, without a line of test code in the product.

A worker that is started with `injected(…)` imports tests/acceptance/faults/injected/sitecustomize.py, and so do the
forkserver and its children. There an audit hook kills the process at the chosen event, each fault once in all. With
`unhurried()` it waits after every training step.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

INJECTED = Path(__file__).parent / "acceptance" / "faults" / "injected"


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the `nth` audit event of one process whose paths, joined by " -> ", match the pattern.

    The event comes before what it tells of is done (https://docs.python.org/3/library/audit_events.html).
    """

    event: str
    pattern: str
    nth: int = 1


def injected(done: Path, *kills: Kill) -> dict[str, str]:
    """The environment of a worker to which these happen. `done` is the folder that tells which did."""
    done.mkdir(exist_ok=True)
    return {
        **_python_path(),
        "FAULT_KILLS": json.dumps([asdict(kill) for kill in kills]),
        "FAULT_DONE": str(done),
        "TUNESMITH_SANDBOX_WRITABLE": str(done),
    }


def visibility_timeout(seconds: float) -> dict[str, str]:
    """The environment of a worker whose broker gives back what was not acknowledged within so many seconds."""
    return {**_python_path(), "FAULT_VISIBILITY_SECONDS": str(seconds)}


def unhurried(step_seconds: float = 0.03) -> dict[str, str]:
    """The environment of a worker whose training waits after each step.

    So a job of a few hundred steps lasts long enough for something to happen to it, however fast the machine is, and
    leaves the processor to other tests.
    """
    return {**_python_path(), "FAULT_STEP_SECONDS": str(step_seconds)}


def happened(done: Path) -> list[int]:
    """The numbers, from 0, of the kills that have happened."""
    return sorted(int(marker.name) for marker in done.iterdir())


def _python_path() -> dict[str, str]:
    paths = [str(INJECTED), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "TUNESMITH_TRAINING_ENVIRONMENT": "FAULT_"}
