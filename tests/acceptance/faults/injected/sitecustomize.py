"""Makes happen to a process what tests/injection.py asks for in its environment."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any


def kill_at_events(kills: list[dict[str, Any]], done: Path) -> None:
    """Install an audit hook that kills this process, at each of these moments once in all processes."""
    patterns = [re.compile(kill["pattern"]) for kill in kills]
    counts = [0] * len(kills)
    events = {kill["event"] for kill in kills}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in events:
            return
        # `open` also tells the mode; `os.rename` has two paths.
        told = arguments[:1] if event == "open" else arguments[:2]
        paths = " -> ".join(os.fsdecode(path) for path in told if isinstance(path, str | bytes | os.PathLike))
        for number, kill in enumerate(kills):
            marker = done / str(number)
            if event != kill["event"] or not patterns[number].search(paths) or marker.exists():
                continue
            counts[number] += 1
            if counts[number] == kill["nth"]:
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if "FAULT_KILLS" in os.environ:
    kill_at_events(json.loads(os.environ["FAULT_KILLS"]), Path(os.environ["FAULT_DONE"]))

if "FAULT_VISIBILITY_SECONDS" in os.environ:
    from kombu.transport.redis import Channel

    Channel.visibility_timeout = float(os.environ["FAULT_VISIBILITY_SECONDS"])
