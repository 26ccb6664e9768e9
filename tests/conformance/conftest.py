"""Every engine and every method must pass the same tests: a new one is picked up from the tables."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import reviews
import warm_start
from deployment import Deployment, deployment
from keras_environment import warm_tensorflow_python
from tiny import make_model

from worker.training.engines import ENGINES

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))
METHODS = ("full",)
PAIRS = [pytest.param((engine, method), id=f"{engine}-{method}") for engine in ENGINES for method in METHODS]


@dataclass(frozen=True)
class Trained:
    """A run by hand on real reviews with a real encoder."""

    folder: Path
    records: list[dict[str, Any]]

    def series(self, name: str) -> list[float]:
        return [record["values"][name] for record in self.records if name in record.get("values", {})]


@pytest.fixture(scope="session", params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An engine and a method."""
    return cast("tuple[str, str]", request.param)


@pytest.fixture(scope="session")
def trained(pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run of this pair, shared by all tests that only look at it."""
    folder = tmp_path_factory.mktemp("-".join(pair))
    _train(pair, folder)
    lines = (folder / "out" / "reports.jsonl").read_text().splitlines()
    return Trained(folder / "out", [json.loads(line) for line in lines])


def _train(pair: tuple[str, str], folder: Path) -> None:
    train, evaluation = reviews.divided(reviews.extreme_rows(reviews.fetch(CACHE)), 240, 100)
    (folder / "spec.json").write_text(json.dumps(real_spec(*pair)))
    command = ["-m", "worker.training", str(folder / "spec.json"), str(folder / "out")]
    command += [f"--dataset=TRAIN={reviews.write_csv(train, folder / 'train.csv')}"]
    command += [f"--dataset=EVAL={reviews.write_csv(evaluation, folder / 'eval.csv')}"]
    command += [f"--models-dir={reviews.models_dir(folder / 'models')}"]
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = warm_start.start(command, os.environ, ROOT, log)
        assert process.wait(500) == 0, log_file.read_text()[-4000:]


def real_spec(engine: str, method: str) -> dict[str, Any]:
    return {
        "task": {"type": "text-classification"},
        "model": "local:all-minilm-l6-v2",
        "data": {"train": {"dataset": "TRAIN"}, "eval": {"dataset": "EVAL"}},
        "tokenization": {"max_length": 32},
        "training": {
            "engine": engine,
            "method": {"type": method},
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 3e-4,
            "logging_steps": 1,
        },
        "evaluation": {"at_start": True},
        "resources": {"gpus": 0},
    }


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of a few thousand weights."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def local(tmp_path: Path, tiny_model: Path, pair: tuple[str, str]) -> Iterator[Deployment]:
    """SQLite, a folder, no broker, and an API; its workers offer the engine of this pair."""
    python = {"TUNESMITH_TENSORFLOW_PYTHON": str(warm_tensorflow_python())} if pair[0] == "tensorflow" else {}
    with deployment(tmp_path / "service", **python) as service:
        (service.folder / "models" / "tiny").symlink_to(tiny_model)
        service.start_api()
        yield service
