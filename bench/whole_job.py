"""A whole job against the script it replaces: the same rows, epochs and truncation, evaluation included, process start included.

    tutorial    transformers' Trainer as in its tutorial: every row padded to max_length
    tuned       Trainer with dynamic padding, batches grouped by length, evaluation batches of 32, and no checkpoints
    ours        `POST /v1/jobs` to `succeeded`, with the defaults, on a worker that is up

`--rows` selects the lengths: mixed (12 to 600 tokens), long (near 512) or short (20 to 40, 2,000 rows). Every batch of the
tutorial has the same shape, so of many rows it takes a share, and its time for the others is computed from that.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]

import reviews  # noqa: E402 - found by the line above
from peer_script import run_script  # noqa: E402
from plot import bars  # noqa: E402
from service import running_service  # noqa: E402

CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))
WORDS_A_TOKEN = 0.8
KINDS = {"mixed": (200, 40), "long": (48, 16), "short": (2000, 200)}
"""Train and eval rows."""
TUTORIAL_ROWS = 48
"""How many train rows the tutorial's script takes at most."""
TOKENS = 512


def main() -> None:
    """Run the three, and print what each took and its ratio to ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--engine", default="trainer")
    parser.add_argument("--plot", type=Path, help="an SVG file to draw the times in; needs matplotlib")
    arguments = parser.parse_args()
    groups: dict[str, dict[str, float]] = {}
    for kind in arguments.rows:
        with tempfile.TemporaryDirectory() as name:
            title = f"{KINDS[kind][0]:,} + {KINDS[kind][1]} {kind} texts, seconds"
            groups[title] = _compare(kind, arguments.engine, Path(name))
    if arguments.plot:
        bars(groups, arguments.plot)


def _compare(kind: str, engine: str, folder: Path) -> dict[str, float]:
    files = write_rows(kind, folder)
    models = reviews.models_dir(folder / "models")
    with running_service(models) as service:
        found = {"ours": _ours(service, files, engine)}
    for script, share in (("tuned", 1.0), ("tutorial", min(1.0, TUTORIAL_ROWS / KINDS[kind][0]))):
        found[script] = _script(script, files, models / "all-minilm-l6-v2", folder, share)
    print(f"{kind}: {KINDS[kind][0]} + {KINDS[kind][1]} rows, engine {engine}")
    for name, (seconds, accuracy) in found.items():
        print(f"  {name:9} {seconds:7.1f} s   {seconds / found['ours'][0]:5.2f} times ours   accuracy {accuracy:.3f}")
    return {name: seconds for name, (seconds, _) in found.items()}


def write_rows(kind: str, folder: Path) -> dict[str, Path]:
    """Write the train and eval rows of a kind as CSV files."""
    # Real reviews, joined until they are as long as wanted. The label is that of all joined reviews.
    train, evaluation = KINDS[kind]
    rows, draw = reviews.extreme_rows(reviews.fetch(CACHE)), np.random.default_rng(7)
    by_label = {
        label: [row["text"] for row in rows if row["label"] == label] for label in {row["label"] for row in rows}
    }
    made: list[dict[str, str]] = []
    for number in range(train + evaluation):
        label = sorted(by_label)[number % len(by_label)]
        wanted, text = _tokens(kind, draw) * WORDS_A_TOKEN, ""
        while len(text.split()) < wanted:
            text = f"{text} {by_label[label][int(draw.integers(len(by_label[label])))]}".strip()
        made.append({"text": " ".join(text.split()[: max(3, int(wanted))]), "label": label})
    return {
        "train": reviews.write_csv(made[:train], folder / "train.csv"),
        "eval": reviews.write_csv(made[train:], folder / "eval.csv"),
    }


def _tokens(kind: str, draw: np.random.Generator) -> float:
    match kind:
        case "long":
            return float(draw.uniform(480, 620))
        case "short":
            return float(draw.uniform(20, 40))
        case _:
            return float(np.clip(draw.lognormal(4.3, 0.85), 12, 600))


def _ours(service: Any, files: dict[str, Path], engine: str) -> tuple[float, float]:
    data = {split: {"dataset": service.upload(path)} for split, path in files.items()}
    body = {
        "task": {"type": "text-classification"},
        "model": "local:all-minilm-l6-v2",
        "data": data,
        "tokenization": {"max_length": TOKENS},
        "training": {"engine": engine, "epochs": 1, "batch_size": 8},
    }
    # The worker is up when it has run a job; a new one still imports torch.
    service.run({**body, "data": {"train": data["eval"], "eval": data["eval"]}, "training": {"max_steps": 1}})
    began = time.perf_counter()
    job = service.run(body)
    return time.perf_counter() - began, job["metrics"]["eval_accuracy"]


def _script(name: str, files: dict[str, Path], model: Path, folder: Path, share: float) -> tuple[float, float]:
    seconds, found = run_script("classify", name, model, files["train"], files["eval"], folder / name, share)
    return found["start"] + (seconds - found["start"]) / share, found["metric"]


if __name__ == "__main__":
    main()
