"""Whether batches by length learn as well as random ones: accuracy on two data sets, from five seeds each.

Prints mean and standard deviation of the eval accuracy for both, and the time of both.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import reviews  # noqa: E402 - found by the line above

CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))
SEEDS = range(1, 6)
ROWS = {"movies": reviews.FILE, "products": reviews.PRODUCTS}
TRAIN, EVALUATION = 400, 300


def main() -> None:
    """Train each data set from each seed with both, and print."""
    archive = reviews.fetch(CACHE)
    with tempfile.TemporaryDirectory() as name:
        models = reviews.models_dir(Path(name) / "models")
        for data, file in ROWS.items():
            train, evaluation = reviews.divided(reviews.extreme_rows(archive, file), TRAIN, EVALUATION)
            folder = Path(name) / data
            files = {
                "TRAIN": reviews.write_csv(train, folder / "train.csv"),
                "EVAL": reviews.write_csv(evaluation, folder / "eval.csv"),
            }
            for batching in ("random", "length"):
                runs = [_run(folder / f"{batching}-{seed}", files, models, batching, seed) for seed in SEEDS]
                found = [accuracy for accuracy, _ in runs]
                print(
                    f"{data}, {batching}: accuracy {statistics.mean(found):.3f} ± {statistics.stdev(found):.3f}, "
                    f"{statistics.mean(seconds for _, seconds in runs):.1f} s"
                )


def _run(folder: Path, files: dict[str, Path], models: Path, batching: str, seed: int) -> tuple[float, float]:
    folder.mkdir()
    spec = {
        "task": {"type": "text-classification"},
        "model": "local:all-minilm-l6-v2",
        "data": {"train": {"dataset": "TRAIN"}, "eval": {"dataset": "EVAL"}},
        "training": {
            "engine": "pytorch",
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 1e-4,
            "batching": batching,
            "seed": seed,
        },
        "checkpoints": {"strategy": "none"},
        "resources": {"gpus": 0},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "worker.training", str(folder / "spec.json"), str(folder / "out")]
    command += [f"--dataset={name}={path}" for name, path in files.items()] + [f"--models-dir={models}"]
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    records = [json.loads(line) for line in (folder / "out" / "reports.jsonl").read_text().splitlines()]
    return records[-1]["metrics"]["eval_accuracy"], time.perf_counter() - began


if __name__ == "__main__":
    main()
