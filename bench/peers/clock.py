"""What every peer measures of itself, in seconds from the start of its process."""

import json
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Notes when training begins (`start`) and when its first step ends (`first_step`)."""

    def __init__(self) -> None:
        self.noted: dict[str, float] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Note the beginning."""
        self.noted["start"] = _since_start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the first step."""
        self.noted.setdefault("first_step", _since_start())

    def print(self, log_history: list[dict[str, float]], metric: str) -> None:
        """Print one JSON object: the newest value of this metric as `metric`, and what was noted."""
        newest = [log[metric] for log in log_history if metric in log][-1]
        print(json.dumps({"metric": newest, **self.noted}))


def _since_start() -> float:
    # Field 22 of proc(5) is the start in clock ticks since boot.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
