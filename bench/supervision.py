"""What a worker, its events and its checkpoints cost a job: the same engine by hand, without any of them, is the peer.

Both measure from the first to the last step, by the times in the training process's own reports. They alternate, because
the speed of a machine changes from minute to minute.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]

import reviews  # noqa: E402 - found by the line above
from service import Service, running_service  # noqa: E402

CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))
RUNS, ROWS = 2, 400
SPEC = {
    "task": {"type": "text-classification"},
    "model": "local:all-minilm-l6-v2",
    "training": {"engine": "pytorch", "epochs": 1, "batch_size": 8, "logging_steps": 1},
    "checkpoints": {"strategy": "steps", "every": 50},
}


def main() -> None:
    """Measure both alternately, and print the medians and what the service adds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, _ = reviews.divided(reviews.extreme_rows(reviews.fetch(CACHE)), ROWS, 16)
        file = reviews.write_csv(train, folder / "train.csv")
        models = reviews.models_dir(folder / "models")
        found: dict[str, list[float]] = {"service": [], "by hand": []}
        with running_service(models) as service:
            dataset = service.upload(file)
            for number in range(RUNS + 1):
                in_service, by_hand = _in_service(service, dataset), _by_hand(file, models, folder / str(number))
                if number:
                    found["service"].append(in_service)
                    found["by hand"].append(by_hand)
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    for name, seconds in found.items():
        print(f"{name:8} {medians[name]:6.2f} s for {ROWS // 8 - 1} steps ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"the service adds {100 * (medians['service'] / medians['by hand'] - 1):.1f} %")


def _in_service(service: Service, dataset: str) -> float:
    began = time.time()
    job = service.client.post("/v1/jobs", {**SPEC, "data": {"train": {"dataset": dataset}, "eval": None}})
    with _reports(service, began) as reports:
        service.wait_for_end(job)
        # The worker has deleted the file by now; what is open can still be read.
        return _seconds_of_steps(reports.read())


def _reports(service: Service, began: float) -> IO[str]:
    for _ in range(3000):
        for path in service.folder.glob("cache/work/*/out/reports.jsonl"):
            if path.stat().st_ctime >= began:
                return path.open(encoding="utf-8")
        time.sleep(0.02)
    raise SystemExit("the training process reports nothing")


def _by_hand(file: Path, models: Path, out: Path) -> float:
    spec = {
        **SPEC,
        "data": {"train": {"dataset": "train"}, "eval": None},
        "checkpoints": {"strategy": "none"},
    }
    path = file.parent / "spec.json"
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-P", "-m", "worker.training", str(path), str(out)]
    command += ["--dataset", f"train={file}", "--models-dir", str(models)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=ROOT)
    return _seconds_of_steps((out / "reports.jsonl").read_text())


def _seconds_of_steps(reports: str) -> float:
    records: list[dict[str, Any]] = [json.loads(line) for line in reports.splitlines()]
    steps = [record for record in records if record["type"] == "metric" and "loss" in record["values"]]
    return steps[-1]["time"] - steps[0]["time"]


if __name__ == "__main__":
    main()
