"""Makes happen to a process what tests/injection.py asks for in its environment."""

import json
import os
import re
import signal
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
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
        reported = arguments[:1] if event == "open" else arguments[:2]
        paths = " -> ".join(os.fsdecode(path) for path in reported if isinstance(path, str | bytes | os.PathLike))
        for number, kill in enumerate(kills):
            marker = done / str(number)
            if event != kill["event"] or not patterns[number].search(paths) or marker.exists():
                continue
            counts[number] += 1
            if counts[number] == kill["nth"]:
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class WaitAfterSteps(MetaPathFinder):
    """Makes training wait after each step, whatever trains, once the module that counts steps is imported."""

    MODULE = "worker.training.loop.pace"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def install(self) -> None:
        """Change the module now, or as it is imported: importing it here would take seconds in every process."""
        if self.MODULE in sys.modules:
            self._change(sys.modules[self.MODULE])
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self.MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            self._change(module)

        spec.loader.exec_module = load_and_change
        return spec

    def _change(self, module: ModuleType) -> None:
        tick = module.Pace.tick

        def tick_slowly(pace: object) -> None:
            time.sleep(self._seconds)
            tick(pace)

        module.Pace.tick = tick_slowly


if "FAULT_KILLS" in os.environ:
    kill_at_events(json.loads(os.environ["FAULT_KILLS"]), Path(os.environ["FAULT_DONE"]))

if "FAULT_STEP_SECONDS" in os.environ:
    WaitAfterSteps(float(os.environ["FAULT_STEP_SECONDS"])).install()

if "FAULT_VISIBILITY_SECONDS" in os.environ:
    from kombu.transport.redis import Channel

    Channel.visibility_timeout = float(os.environ["FAULT_VISIBILITY_SECONDS"])
