"""Rows of a dataset hub that is really asked, by a process of its own as each job is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dataset_hub import DatasetHub, Repository, dataset_hub, environment

from app.failures import CATALOG
from worker.training.errors import DataNeedsCode

ROOT = Path(__file__).parents[3]
README = b"""---
configs:
- config_name: short
  data_files:
  - {split: train, path: short/train.jsonl}
  - {split: test, path: short/test.jsonl}
- config_name: long
  data_files:
  - {split: train, path: long/train.jsonl}
dataset_info:
- config_name: short
  features:
  - {name: text, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': bad, '1': good}}}}
---
"""
READ = """
import json, sys
from pathlib import Path
from app.specs.data import HubData
from worker.training.errors import TrainingError
from worker.training.inputs.sources import read
from worker.training.reports import Reporter
report = Reporter(Path(sys.argv[2]))
for asked in json.loads(sys.argv[1]):
    commit = asked.pop("commit", None)
    try:
        table = read("train", HubData.model_validate(asked), {}, {"text": "text", "label": "label"}, report, commit)
        found = {name: table[name] for name in ("text", "label", "_row")}
        print(json.dumps({**found, "names": table.class_names, "commit": table.commit}))
    except TrainingError as error:
        print(json.dumps({**error.failure.to_json(), "retryable": error.failure.retryable}))
"""
Read = Callable[..., list[dict[str, Any]]]


def lines(name: str, count: int) -> bytes:
    return "".join(json.dumps({"text": f"{name} {n}", "label": n % 2}) + "\n" for n in range(count)).encode()


def files(name: str) -> dict[str, bytes]:
    return {
        "README.md": README,
        "short/train.jsonl": lines(f"{name} train", 50),
        "short/test.jsonl": lines(f"{name} test", 10),
        "long/train.jsonl": lines(f"{name} long", 20),
    }


REVIEWS = Repository.of(main=files("main"), mended=files("mended"))
MENDED = REVIEWS.refs["mended"]


@pytest.fixture
def hub() -> Iterator[DatasetHub]:
    scripted = Repository.of(main={"README.md": b"", "scripted.py": b"raise SystemExit"})
    broken = Repository.of(main={"train.jsonl": b'{"text": "a", "label"'})
    with dataset_hub(reviews=REVIEWS, scripted=scripted, broken=broken) as server:
        yield server


@pytest.fixture
def read(hub: DatasetHub, tmp_path: Path) -> Read:
    """Reads one source after the other and reports the rows, or the error, of each."""

    def ask(*sources: dict[str, Any], **more: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-c", READ, json.dumps(sources), str(tmp_path / "out")],
            cwd=ROOT,
            env={**os.environ, **environment(hub.url, tmp_path), **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def of(**parts: str) -> dict[str, str]:
    return {"hub": "someone/reviews", "config": "short", **parts}


def test_configs_splits_slices_and_revisions_are_those_of_the_hub(read: Read) -> None:
    tenth, middle, both, long, mended, pinned, earlier = read(
        of(split="train[:10%]"),
        of(split="train[10:20]"),
        of(split="train+test"),
        of(config="long"),
        of(revision="mended", split="test"),
        of(revision=MENDED, split="test"),
        of(split="test", commit=MENDED),
    )
    assert tenth["text"] == [f"main train {n}" for n in range(5)]
    assert (tenth["label"], tenth["_row"]) == ([0, 1, 0, 1, 0], [1, 2, 3, 4, 5])
    assert tenth["names"] == {"label": ["bad", "good"]}
    assert middle["text"] == [f"main train {n}" for n in range(10, 20)]
    assert (len(both["text"]), both["text"][0], both["text"][-1]) == (60, "main train 0", "main test 9")
    assert (len(long["text"]), long["text"][0], long["names"]) == (20, "main long 0", {})
    assert mended["text"] == pinned["text"] == earlier["text"] == [f"mended test {n}" for n in range(10)]
    assert tenth["commit"] == long["commit"] == REVIEWS.refs["main"]
    assert mended["commit"] == pinned["commit"] == earlier["commit"] == MENDED


def test_what_the_hub_does_not_have_is_reported_with_what_it_has(read: Read) -> None:
    config, split, slice_, revision, name, broken = read(
        of(config="huge"),
        of(split="validation"),
        of(split="train[:"),
        of(revision="other"),
        of(hub="someone/nothing"),
        {"hub": "someone/broken"},
    )
    assert {answer["code"] for answer in (config, split, slice_, revision, name, broken)} == {"data_not_found"}
    assert "'short', 'long'" in config["message"]
    assert "'train', 'test'" in split["message"]
    assert "train[:" in slice_["message"]
    assert "'other'" in revision["message"]
    assert "someone/nothing" in name["message"]
    assert "JSON parse error" in broken["message"]


def test_a_dataset_that_is_made_by_code_is_refused(read: Read, hub: DatasetHub) -> None:
    [answer] = read({"hub": "someone/scripted"})
    assert (answer["code"], answer["retryable"]) == ("data_needs_code", False)
    assert answer["hint"] == CATALOG[DataNeedsCode.code].hint


def test_a_hub_that_is_away_is_reported_and_only_rows_of_the_asked_revision_come_from_the_cache(
    read: Read, hub: DatasetHub
) -> None:
    assert read(of())[0]["commit"] == REVIEWS.refs["main"]
    # It asks for 23 s before it gives up. Offline, it does not ask, and another attempt would not either.
    [again] = read(of(), HF_ENDPOINT="http://127.0.0.1:9")
    earlier, other, never = read(
        of(commit=REVIEWS.refs["main"]), of(revision=MENDED), {"hub": "someone/else"}, HF_HUB_OFFLINE="1"
    )
    assert again["text"] == earlier["text"] == [f"main train {n}" for n in range(50)]
    for answer in (other, never):
        assert (answer["code"], answer["retryable"]) == ("data_not_found", False)
        assert "HF_HUB_OFFLINE" in answer["message"]
