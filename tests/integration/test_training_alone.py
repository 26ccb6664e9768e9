"""Training without a service: the command as a person runs it, and the warm start as the worker does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import reviews
import warm_start
from transformers import pipeline

from worker.training.checkpoints.folders import newest_valid, verify

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
SPEC: dict[str, Any] = {
    "name": "movie reviews",
    "task": {"type": "text-classification"},
    "model": "local:all-minilm-l6-v2",
    "data": {"train": {"dataset": "TRAIN_DATASET"}, "eval": {"dataset": "EVAL_DATASET"}},
    "tokenization": {"max_length": 32},
    "training": {"epochs": 2, "batch_size": 16, "learning_rate": 2e-4, "head_learning_rate": 1e-3},
    "evaluation": {"at_start": True},
    "checkpoints": {"strategy": "steps", "every": 10},
    "resources": {"gpus": 0},
}


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "worker.training", str(folder / "spec.json"), str(folder / "out"), *more]


def records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "out" / "reports.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def prepared(tmp_path: Path) -> list[str]:
    """Real reviews and a real encoder; returns the command that trains on them."""
    train, evaluation = reviews.divided(reviews.extreme_rows(reviews.fetch(CACHE)), 240, 100)
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    return command(
        tmp_path,
        f"--dataset=TRAIN_DATASET={reviews.write_csv(train, tmp_path / 'train.csv')}",
        f"--dataset=EVAL_DATASET={reviews.write_parquet(evaluation, tmp_path / 'eval.parquet')}",
        f"--models-dir={reviews.models_dir(tmp_path / 'models')}",
    )


@pytest.mark.models
@pytest.mark.numeric
def test_a_stopped_command_resumes_and_its_model_got_better(prepared: list[str], tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    log = log_file.open("wb")
    first = warm_start.start(prepared[1:], os.environ, ROOT, log)
    deadline = time.monotonic() + 180
    while not any(record["type"] == "checkpoint" for record in records(tmp_path)):
        assert first.poll() is None, log_file.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 3, log_file.read_text()
    stopped = records(tmp_path)[-1]
    assert (stopped["status"], stopped["step"] >= 10) == ("stopped", True)
    newest = newest_valid(tmp_path / "out" / "checkpoints")
    assert newest is not None
    assert newest.name == f"step-{stopped['step']:08d}"

    second = warm_start.start(prepared[1:], os.environ, ROOT, log)
    assert second.wait(400) == 0, log_file.read_text()
    log.close()
    story = records(tmp_path)
    before = next(record["values"] for record in story if record["type"] == "metric" and record["step"] == 0)
    after = story[-1]["metrics"]
    assert before["eval_accuracy"] < 0.7
    assert after["eval_accuracy"] >= before["eval_accuracy"] + 0.1
    resumed = [record["step"] for record in story[story.index(stopped) :] if record["type"] == "progress"]
    assert resumed[0] == stopped["step"] + 1
    verify(tmp_path / "out" / "model")
    classify = pipeline("text-classification", model=str(tmp_path / "out" / "model"))
    assert classify("A masterpiece, moving and wonderfully acted.")[0]["label"] == "5 stars"


def test_a_failing_command_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    (tmp_path / "rows.csv").write_text("review,label\nfine,1\n")
    files = [f"--dataset={name}_DATASET={tmp_path / 'rows.csv'}" for name in ("TRAIN", "EVAL")]
    log_file = tmp_path / "log"
    with log_file.open("wb") as log:
        assert warm_start.start(command(tmp_path, *files)[1:], os.environ, ROOT, log).wait(200) == 1
    said = log_file.read_text()
    assert "column_missing: train has no column 'text' for the role 'text'" in said
    assert "data.columns" in said


WARM_START = """
import json, sys
from multiprocessing import get_context

def child(pipe):
    warm = "worker.training.warm" in sys.modules
    import torch
    from transformers import AutoTokenizer
    ones = torch.ones(512, 512)
    tokens = AutoTokenizer.from_pretrained(sys.argv[1])(["a film"] * 1000)
    pipe.send({"warm": warm, "sum": float((ones @ ones).sum()), "rows": len(tokens["input_ids"])})

if __name__ == "__main__":
    context = get_context("forkserver")
    context.set_forkserver_preload(["worker.training.warm"])
    here, there = context.Pipe()
    process = context.Process(target=child, args=(there,))
    process.start()
    if not here.poll(100):
        sys.exit("the child hangs")
    print(json.dumps(here.recv()))
    process.join(10)
"""


def test_a_child_of_the_warm_forkserver_computes_and_tokenizes(tmp_path: Path) -> None:
    # A forkserver is one for each process and takes its preload before it starts: so in a process of its own.
    script = tmp_path / "warm_start.py"
    script.write_text(WARM_START)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, str(script), str(reviews.encoder())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"warm": True, "sum": 512.0**3, "rows": 1000}
