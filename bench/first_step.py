"""From `POST /v1/jobs` to the end of the first optimizer step, on a warm worker with cached tokens.

The peer is a script that starts, imports, loads, tokenizes and takes its first step. Both take a step of 8 short rows.
The service relays the first step with up to a tenth of a second of delay, which is part of its time.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]

import reviews  # noqa: E402 - found by the line above
from peer_script import run_script  # noqa: E402
from service import Service, running_service  # noqa: E402

CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))
RUNS = 5


def main() -> None:
    """Measure both, and print the medians and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, evaluation = reviews.divided(reviews.extreme_rows(reviews.fetch(CACHE)), 40, 16)
        files = {
            "train": reviews.write_csv(train, folder / "train.csv"),
            "eval": reviews.write_csv(evaluation, folder / "eval.csv"),
        }
        models = reviews.models_dir(folder / "models")
        with running_service(models) as service:
            data = {split: {"dataset": service.upload(path)} for split, path in files.items()}
            ours = [_first_step(service, data) for _ in range(RUNS + 1)][1:]
        script = [_first_step_of_script(files, models / "all-minilm-l6-v2", folder / "out") for _ in range(2)]
    mine, theirs = statistics.median(ours), statistics.median(script)
    print(f"ours: {mine:.2f} s ({min(ours):.2f} to {max(ours):.2f}, of {RUNS})")
    print(f"script: {theirs:.2f} s, {theirs / mine:.1f} times ours")


def _first_step(service: Service, data: dict[str, Any]) -> float:
    body = {
        "task": {"type": "text-classification"},
        "model": "local:all-minilm-l6-v2",
        "data": data,
        "training": {"engine": "pytorch", "epochs": 1, "batch_size": 8},
    }
    began = time.perf_counter()
    job = service.client.post("/v1/jobs", body)
    while not job["progress"]:
        time.sleep(0.02)
        job = service.client.get(f"/v1/jobs/{job['id']}")
    seconds = time.perf_counter() - began
    service.wait_for_end(job)
    return seconds


def _first_step_of_script(files: dict[str, Path], model: Path, out: Path) -> float:
    return run_script("classify", "tuned", model, files["train"], files["eval"], out)[1]["first_step"]


if __name__ == "__main__":
    main()
