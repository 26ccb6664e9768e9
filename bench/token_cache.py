"""How long it takes to tokenize 50,000 short rows: without a cache, with an empty cache, and from a filled cache.

Uses real reviews, repeated up to that number, and the tokenizer of a real encoder. Prints the ratio of the medians.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import reviews
from transformers.utils import logging as transformers_logging

from app.specs import JobSpec
from worker.training.inputs.data import load_data
from worker.training.planning.planner import make_plan
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest
from worker.training.tasks import TASKS
from worker.training.tokens.cache import TokenCache
from worker.training.tokens.tokenization import tokenize

ROWS, RUNS, GIB = 50_000, 5, 1024**3
DATASET = "ds_" + "0" * 26
CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))
SPEC = {
    "task": {"type": "text-classification"},
    "model": "local:all-minilm-l6-v2",
    "data": {"train": {"dataset": DATASET}},
    "resources": {"gpus": 0},
}


def main() -> None:
    """Measure all three alternately, and print."""
    # As the worker does: its slots share the cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = list(islice(cycle(reviews.rating_rows(reviews.fetch(CACHE))), ROWS))
        file = reviews.write_parquet(rows, folder / "rows.parquet")
        spec = JobSpec.model_validate(SPEC)
        models = reviews.models_dir(folder / "models")
        request = TrainingRequest(spec, folder / "out", {DATASET: file}, models, {}, None, None)
        report, stop, task = Reporter(folder / "out"), threading.Event(), TASKS[spec.task.type]
        data = load_data(request, report, stop)
        plan = make_plan(request, task, data, report, stop)

        def seconds(cache: TokenCache | None) -> float:
            started = time.perf_counter()
            tokenize(data.splits, plan.encoder, cache, folder / "again", report, stop)
            return time.perf_counter() - started

        without, cold, hit = [], [], []
        for run in range(RUNS):
            cache = TokenCache(folder / f"tokens-{run}", GIB)
            without.append(seconds(None))
            cold.append(seconds(cache))
            hit.append(seconds(cache))
    print(f"without a cache: {_described(without)}")
    print(f"tokenized and stored: {_described(cold)}")
    print(f"read from the cache: {_described(hit)}")
    print(f"ratio: {statistics.median(cold) / statistics.median(hit):.0f}")


def _described(seconds: list[float]) -> str:
    shown = [f"{value * 1000:.0f}" for value in (statistics.median(seconds), min(seconds), max(seconds))]
    return f"{shown[0]} ms (of {RUNS}: {shown[1]} to {shown[2]})"


if __name__ == "__main__":
    main()
