"""Runs a script of `bench/peers` as its user would: in a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "peers"


def run_script(name: str, *arguments: object) -> tuple[float, dict[str, float]]:
    """Run `peers/NAME.py`. Returns the seconds of the whole process, and what its `Clock` printed.

    Raises SystemExit with what the script wrote if it fails.
    """
    command = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, arguments)]
    began = time.perf_counter()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{name}.py failed:\n{done.stderr[-3000:]}")
    return seconds, json.loads(done.stdout.splitlines()[-1])
