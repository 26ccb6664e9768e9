"""Real pretrained models on real data, by hand as a user would; minutes, not seconds."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import real_models
import reviews
import warm_start

ROOT = Path(__file__).parents[2]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the real encoder and the real chat model."""
    folder = reviews.models_dir(tmp_path_factory.mktemp("models"))
    (folder / "smollm2").symlink_to(real_models.chat_model(real_models.CACHE))
    return folder


@pytest.fixture
def train(tmp_path: Path, models: Path) -> Callable[..., list[dict[str, Any]]]:
    """Runs a spec on these rows in a process of its own; returns its records. The model is in `out/model`."""

    def go(train: Rows, evaluation: Rows, spec: dict[str, Any]) -> list[dict[str, Any]]:
        for name, rows in (("train", train), ("eval", evaluation)):
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        sources = {"train": {"dataset": "TRAIN"}, "eval": {"dataset": "EVAL"}}
        body = {"data": sources, "resources": {"gpus": 0}, "evaluation": {"at_start": True}, **spec}
        (tmp_path / "spec.json").write_text(json.dumps(body))
        command = ["-m", "worker.training", str(tmp_path / "spec.json"), str(tmp_path / "out")]
        command += [f"--dataset=TRAIN={tmp_path}/train.parquet", f"--dataset=EVAL={tmp_path}/eval.parquet"]
        command += [f"--models-dir={models}"]
        with (tmp_path / "log").open("wb") as log:
            process = warm_start.start(command, os.environ, ROOT, log)
            assert process.wait() == 0, (tmp_path / "log").read_text()[-4000:]
        return [json.loads(line) for line in (tmp_path / "out" / "reports.jsonl").read_text().splitlines()]

    return go
