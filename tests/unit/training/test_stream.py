"""Training on rows that are streamed from a hub that is really asked, in a process of its own as each job is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dataset_hub import DatasetHub, Repository, dataset_hub, environment
from tiny import sentences

ROOT = Path(__file__).parents[3]
NAMED = b"""---
dataset_info:
  features:
  - {name: text, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': bad, '1': good}}}}
---
"""
RUNS = """
import worker.training.warm
import json, os, resource, sys, threading
from pathlib import Path
import torch
from app.specs import JobSpec, Resolved
from worker.training.checkpoints.folders import newest_valid
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest
from worker.training.run import run


def attempt_all(asked):
    torch.set_num_threads(1)
    for attempt in asked["attempts"]:
        out, stop, records = Path(attempt["out"]), threading.Event(), []

        def listen(record):
            records.append(record)
            if record.get("step", 0) >= attempt.get("stop_after", 1e9) and "loss" in record.get("values", {}):
                stop.set()

        checkpoint = newest_valid(out / "checkpoints")
        resolved = Resolved.model_validate(json.loads((out / "resolved.json").read_text())) if checkpoint else None
        spec = JobSpec.model_validate(attempt["spec"])
        request = TrainingRequest(spec, out, {}, Path(asked["models"]), {}, resolved, checkpoint)
        run(request, Reporter(out, listen), stop)
        for record in records:
            if record["type"] == "resolved":
                (out / "resolved.json").write_text(json.dumps(record["resolved"]))
        (out / "peak").write_text(str(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
        print(json.dumps(records), flush=True)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        attempt_all(json.loads(line))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)
"""
Records = list[dict[str, Any]]
Go = Callable[..., list[Records]]
ENGINES = pytest.mark.parametrize("engine", ["trainer", "pytorch"])


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def with_ids(count: int) -> list[dict[str, Any]]:
    return [{**row, "label": int(row["label"] == "good")} for row in sentences(count)]


def spoiled(count: int) -> list[dict[str, Any]]:
    """Beyond the thousand rows that are looked at beforehand, one has no text."""
    return [{**row, "text": ""} if number == 1234 else row for number, row in enumerate(sentences(count), start=1)]


@pytest.fixture(scope="module")
def hub() -> Iterator[DatasetHub]:
    repositories = {
        "small": Repository.of(main={"README.md": NAMED, "train.jsonl": lines(with_ids(30))}),
        "unnamed": Repository.of(main={"train.jsonl": lines(sentences(30))}),
        "spoiled": Repository.of(main={"train.jsonl": lines(spoiled(1500))}),
        "hopeless": Repository.of(main={"train.jsonl": lines([{"text": "", "label": "bad"}] * 3)}),
    }
    with dataset_hub(**repositories) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the libraries keep what they downloaded."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def forks(hub: DatasetHub, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that uses this hub, and forks one for the attempts of each line that it is given."""
    with (home / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", RUNS],
            cwd=ROOT,
            env={**os.environ, **environment(hub.url, home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        yield process
        process.communicate()


@pytest.fixture
def go(forks: subprocess.Popen[str], home: Path, tmp_path: Path, models_dir: Path) -> Go:
    """Runs attempts one after the other and gives the records of each; an attempt goes on from what is in its folder."""

    def start(*attempts: dict[str, Any]) -> list[Records]:
        asked = {
            "models": str(models_dir),
            "attempts": [{**attempt, "out": str(tmp_path / attempt["out"])} for attempt in attempts],
        }
        assert forks.stdin is not None
        assert forks.stdout is not None
        forks.stdin.write(json.dumps(asked) + "\n")
        forks.stdin.flush()
        found: list[Records] = []
        for line in forks.stdout:
            answer = json.loads(line)
            if isinstance(answer, dict):
                assert answer == {"code": 0}, (home / "stderr").read_text()
                return found
            found.append(answer)
        raise AssertionError((home / "stderr").read_text())

    return start


def spec(name: str, engine: str, *, labels: bool = True, **parts: Any) -> dict[str, Any]:
    train = {"hub": f"someone/{name}", "streaming": True, "shuffle_buffer": parts.pop("shuffle_buffer", 10)}
    return {
        "task": {"type": "text-classification", **({"labels": ["bad", "good"]} if labels else {})},
        "model": "local:tiny",
        "data": {"train": train, **parts.pop("data", {})},
        "training": {
            "engine": engine,
            "max_steps": 24,
            "batch_size": 4,
            "gradient_accumulation": 2,
            "learning_rate": 0.01,
            "logging_steps": 1,
        },
        "checkpoints": {"strategy": "none"},
        "resources": {"gpus": 0},
        **parts,
    }


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def result(records: Records) -> dict[str, Any]:
    return records[-1]


def losses(records: Records) -> dict[int, float]:
    return {record["step"]: record["values"]["loss"] for record in records if "loss" in record.get("values", {})}


def notes(records: Records) -> str:
    return "\n".join(record["message"] for record in records if record["type"] == "note")


@ENGINES
def test_a_stream_is_learned_and_a_stop_anywhere_changes_no_byte(go: Go, tmp_path: Path, engine: str) -> None:
    # 30 rows are 3.75 steps: passes end within a batch.
    asked = spec("small", engine, labels=False, data={"eval": {"rows": sentences(10)}})
    stops = (2, 11)
    whole, *interrupted = go(
        {"out": "whole", "spec": asked},
        *(
            attempt
            for stop in stops
            for attempt in (
                {"out": f"interrupted-{stop}", "spec": asked, "stop_after": stop},
                {"out": f"interrupted-{stop}", "spec": asked},
            )
        ),
    )
    assert (result(whole)["status"], result(whole)["step"]) == ("succeeded", 24)
    assert result(whole)["metrics"]["eval_accuracy"] == 1.0
    model = (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()
    for number, stop in enumerate(stops):
        first, second = interrupted[2 * number : 2 * number + 2]
        assert result(first)["status"] == "stopped"
        assert stop <= result(first)["step"] < 24
        assert result(second)["status"] == "succeeded"
        assert losses(first) | losses(second) == losses(whole)
        assert (tmp_path / f"interrupted-{stop}" / "model" / "model.safetensors").read_bytes() == model
    resolved = next(record["resolved"] for record in whole if record["type"] == "resolved")
    assert resolved["labels"] == ["bad", "good"]
    assert (resolved["total_steps"], resolved["rows"]) == (24, {"eval": 10})
    assert len(resolved["dataset_commits"]["train"]) == 40
    card = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert "split `train` at" in card
    assert "| streamed |" in card


def test_both_engines_see_the_same_rows_in_the_same_order(go: Go) -> None:
    trainer, pytorch = go(*({"out": engine, "spec": spec("unnamed", engine)} for engine in ("trainer", "pytorch")))
    assert losses(trainer) == pytest.approx(losses(pytorch), rel=1e-4)
    assert len(losses(trainer)) == 24


@ENGINES
def test_a_bad_row_far_into_a_stream_fails_or_is_left_out(go: Go, engine: str) -> None:
    asked = spec("spoiled", engine)
    asked["training"] |= {"max_steps": 100, "batch_size": 16}
    skipping = {**asked, "data": {**asked["data"], "on_bad_row": "skip"}}
    failed, skipped = go({"out": "fail", "spec": asked}, {"out": "skip", "spec": skipping})
    error = result(failed)["error"]
    assert (error["code"], error["details"]["row"], error["details"]["column"]) == ("bad_rows", 1234, "text")
    assert result(skipped)["status"] == "succeeded"
    assert "the first: train row 1234" in notes(skipped)
    assert "1 of 1500 train rows are skipped in each pass" in notes(skipped)


def test_what_cannot_be_learned_from_a_stream_is_reported(go: Go) -> None:
    hopeless = spec("hopeless", "pytorch", data={"on_bad_row": "skip"})
    unnamed, empty, split = go(
        {"out": "unnamed", "spec": spec("unnamed", "pytorch", labels=False)},
        {"out": "hopeless", "spec": hopeless},
        {
            "out": "split",
            "spec": {
                **hopeless,
                "data": {"train": {"hub": "someone/small", "streaming": True, "split": "validation"}},
            },
        },
    )
    assert result(unnamed)["error"]["code"] == "class_unknown"
    assert result(unnamed)["error"]["hint"] == "Name them in task.labels."
    assert result(empty)["error"]["code"] == "no_rows"
    assert result(split)["error"]["code"] == "data_not_found"
    assert "'train'" in result(split)["error"]["message"]


def test_of_data_larger_than_is_needed_only_the_beginning_is_read(
    go: Go, hub: DatasetHub, home: Path, tmp_path: Path
) -> None:
    big_file = lines([{**row, "padding": "x" * 4000} for row in sentences(60_000)])
    assert len(big_file) > 240_000_000
    hub.repositories["someone/big"] = Repository.of(main={"train.jsonl": big_file})
    small, big = (spec(name, "pytorch", shuffle_buffer=1000) for name in ("unnamed", "big"))
    served, stored = hub.served.file_bytes, stored_bytes(home)
    _, records = go({"out": "small", "spec": small}, {"out": "big", "spec": big})
    assert result(records)["status"] == "succeeded"
    # Read twice: the first rows before training, and then again with those of the buffer.
    assert hub.served.file_bytes - served < 100_000_000
    assert stored_bytes(home) - stored + stored_bytes(tmp_path) < 5_000_000
    peaks = [int((tmp_path / name / "peak").read_text()) for name in ("small", "big")]
    assert peaks[1] - peaks[0] < 150_000_000
