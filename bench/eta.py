"""How close the ETA after 5 % of the steps is to the actual time of training, with real reviews and a real encoder.

Prints the estimate, the time from the beginning of training to the end of the job, and their ratio (1 is exact), for each
engine and evaluation interval.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import reviews  # noqa: E402 - found by the line above

CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))

CASES: dict[str, dict[str, Any]] = {
    "trainer, 2 epochs": {"training": {"engine": "trainer", "epochs": 2}},
    "pytorch, 2 epochs": {"training": {"engine": "pytorch", "epochs": 2}},
    "trainer, accumulating, evaluated every 20 steps": {
        "training": {"engine": "trainer", "epochs": 2, "gradient_accumulation": 2},
        "evaluation": {"strategy": "steps", "every": 20},
    },
    "lora": {"training": {"epochs": 2, "method": {"type": "lora"}}},
    "freeze": {"training": {"epochs": 2, "method": {"type": "freeze", "layers": 3}}},
    "tensorflow": {"training": {"engine": "tensorflow", "epochs": 1}},
}


def main() -> None:
    """Train each case once, and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, evaluation = reviews.divided(reviews.rating_rows(reviews.fetch(CACHE)), 1600, 300)
        files = {
            "TRAIN": reviews.write_csv(train, folder / "train.csv"),
            "EVAL": reviews.write_csv(evaluation, folder / "eval.csv"),
        }
        models = reviews.models_dir(folder / "models")
        for number, (title, parts) in enumerate(CASES.items()):
            estimate, took = _run(folder / str(number), files, models, parts)
            print(f"{title}: estimated {estimate:.1f} s, took {took:.1f} s, ratio {estimate / took:.2f}", flush=True)


def _run(folder: Path, files: dict[str, Path], models: Path, parts: dict[str, Any]) -> tuple[float, float]:
    folder.mkdir()
    spec = {
        "task": {"type": "text-classification"},
        "model": "local:all-minilm-l6-v2",
        "data": {"train": {"dataset": "TRAIN"}, "eval": {"dataset": "EVAL"}},
        "tokenization": {"max_length": 64},
        "resources": {"gpus": 0},
        **parts,
        "training": {"batch_size": 16, **parts["training"]},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "worker.training", str(folder / "spec.json"), str(folder / "out")]
    command += [f"--dataset={name}={path}" for name, path in files.items()] + [f"--models-dir={models}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    records = [json.loads(line) for line in (folder / "out" / "reports.jsonl").read_text().splitlines()]
    begun = next(record for record in records if record.get("phase") == "training")
    measured = next(record for record in records if "steps" in record.get("preflight", {}))
    return measured["preflight"]["steps"]["eta_seconds"], records[-1]["time"] - begun["time"]


if __name__ == "__main__":
    main()
