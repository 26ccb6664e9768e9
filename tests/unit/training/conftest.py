"""A BERT of a few thousand weights and a handful of rows: a whole training run takes a second."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from keras_environment import warm_tensorflow_python
from tiny import make_model, sentences

from app.specs import JobSpec, Resolved
from worker.training.inputs.data import load_data
from worker.training.planning.plan import Plan
from worker.training.planning.planner import make_plan
from worker.training.reports import Record, Reporter
from worker.training.request import TrainingRequest
from worker.training.run import run
from worker.training.tasks import TASKS


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `local:tiny`."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "tiny")
    return folder


@pytest.fixture
def rows() -> Callable[[int], list[dict[str, Any]]]:
    """Makes rows for a spec."""
    return sentences


@pytest.fixture
def engine() -> str:
    """What trains, unless a module goes through them all."""
    return "trainer"


@pytest.fixture
def spec(engine: str) -> Callable[..., JobSpec]:
    """A spec that trains the tiny model; parts are merged in by name."""

    def make(rows: int = 24, **parts: Any) -> JobSpec:
        body: dict[str, Any] = {
            "task": {"type": "text-classification"},
            "model": {"id": "local:tiny"},
            "data": {"train": {"rows": sentences(rows)}, "eval": {"rows": sentences(10)}},
            "training": {"engine": engine, "epochs": 2, "batch_size": 4, "learning_rate": 0.01, "logging_steps": 1},
            "resources": {"gpus": 0},
        }
        for name, part in parts.items():
            body[name] = {**body.get(name, {}), **part} if isinstance(part, dict) else part
        return JobSpec.model_validate(body)

    return make


@pytest.fixture
def plan(models_dir: Path, tmp_path: Path) -> Callable[[JobSpec], Plan]:
    """Makes what an engine is given."""

    def make(spec: JobSpec) -> Plan:
        python = warm_tensorflow_python() if spec.training.engine == "tensorflow" else None
        request = TrainingRequest(spec, tmp_path, {}, models_dir, {}, None, None, tensorflow_python=python)
        report, stop, task = Reporter(tmp_path), threading.Event(), TASKS[spec.task.type]
        data = load_data(request, report, stop)
        return make_plan(request, task, data, report, stop)

    return make


class Run:
    """What one attempt left behind."""

    def __init__(self, out_dir: Path, records: list[Record]) -> None:
        self.out_dir, self.records = out_dir, records
        self.result = records[-1]

    def of(self, kind: str) -> list[Record]:
        return [record for record in self.records if record["type"] == kind]

    @property
    def resolved(self) -> Resolved:
        return Resolved.model_validate(self.of("resolved")[-1]["resolved"])

    @property
    def weights(self) -> bytes:
        return (self.out_dir / "model" / "model.safetensors").read_bytes()

    def series(self, name: str) -> dict[int, float]:
        return {record["step"]: record["values"][name] for record in self.of("metric") if name in record["values"]}


@pytest.fixture
def train(tmp_path: Path, models_dir: Path) -> Callable[..., Run]:
    """Run one attempt in this process. `stop_when` sees each record and stops the run when it says so."""

    def attempt(
        spec: JobSpec,
        name: str = "out",
        stop_when: Callable[[Record], bool] = lambda _: False,
        **more: Any,
    ) -> Run:
        out_dir = tmp_path / name
        request = TrainingRequest(
            **{
                "spec": spec,
                "out_dir": out_dir,
                "datasets": {},
                "models_dir": models_dir,
                "jobs_models": {},
                "resolved": None,
                "resume_from": None,
                "tensorflow_python": warm_tensorflow_python() if spec.training.engine == "tensorflow" else None,
                **more,
            }
        )
        stop = threading.Event()
        records: list[Record] = []

        def listen(record: Record) -> None:
            records.append(record)
            if stop_when(record):
                stop.set()

        run(TrainingRequest.from_json(request.to_json()), Reporter(out_dir, listen), stop)
        lines = (out_dir / "reports.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines][-len(records) :] == records
        assert [record["type"] for record in records].count("result") == 1
        return Run(out_dir, records)

    return attempt
