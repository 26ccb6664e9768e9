"""Every task, engine and method that are offered together: it learns, it is published whole, and plain libraries agree.

Which go together is read from the same tables that `GET /v1/tasks` shows; a new task needs a line in `kinds.py`.
"""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from keras_environment import warm_tensorflow_python
from kinds import KINDS, Kind
from torch_dropout import use_torch_dropout

from app.specs import TASKS, JobSpec
from app.specs.compatibility import methods_for
from worker.training.checkpoints.folders import verify
from worker.training.evaluation.metrics import greater_is_better
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest
from worker.training.run import run

pytestmark = pytest.mark.numeric
GOLDEN = Path(__file__).parent / "golden_tiny_losses.json"
"""The losses of the first steps of each task with engine trainer and method full."""
GOLDEN_RANDOM = Path(__file__).parent / "golden_tiny_losses_random.json"
"""The same of versions whose batches were random, and whose dropout was torch's."""
METHODS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "lora": {"type": "lora", "rank": 8},
    "freeze": {"type": "freeze", "layers": 1},
}
TRIPLES = [
    (task, engine, method)
    for task in TASKS
    for method, engines in methods_for(task).items()
    for engine in engines
    # Four bits need a GPU; tests/unit/training/test_methods.py shows what can be shown of them without.
    if method in METHODS
]


def body(task: str, engine: str, method: str, **more: Any) -> JobSpec:
    kind = KINDS[task]
    return JobSpec.model_validate(
        {
            "task": {"type": task, **kind.task},
            "model": "local:tiny",
            "data": {"train": {"rows": kind.rows(kind.train)}, "eval": {"rows": kind.rows(kind.evaluation)}},
            "training": {
                "engine": engine,
                "method": METHODS[method],
                "batch_size": 8,
                "logging_steps": 1,
                **kind.training,
                **more,
            },
            "evaluation": {"at_start": True, **kind.evaluations},
            "resources": {"gpus": 0},
        }
    )


def train(spec: JobSpec, kind: Kind, folder: Path) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    if not (folder / "models").exists():
        kind.make_model(folder / "models" / "tiny")
    python = warm_tensorflow_python() if spec.training.engine == "tensorflow" else None
    out = folder / "out"
    request = TrainingRequest(spec, out, {}, folder / "models", {}, None, None, tensorflow_python=python)
    run(request, Reporter(out), threading.Event())
    return [json.loads(line) for line in (out / "reports.jsonl").read_text().splitlines()]


def series(records: list[dict[str, Any]], name: str) -> list[float]:
    return [record["values"][name] for record in records if name in record.get("values", {})]


def test_every_task_is_here() -> None:
    assert set(KINDS) == set(TASKS)


@pytest.mark.parametrize(("task", "engine", "method"), TRIPLES, ids=["-".join(triple) for triple in TRIPLES])
def test_it_learns_and_plain_libraries_agree(task: str, engine: str, method: str, tmp_path: Path) -> None:
    kind = KINDS[task]
    spec = body(task, engine, method)
    records = train(spec, kind, tmp_path)
    assert records[-1]["status"] == "succeeded", records[-1]
    losses = series(records, "loss")
    tenth = max(3, len(losses) // 10)
    assert sum(losses[-tenth:]) < 0.95 * sum(losses[:tenth])
    evaluations = series(records, f"eval_{spec.best_by}")
    best = max(evaluations[1:]) if greater_is_better(spec.best_by) else min(evaluations[1:])
    assert (best > evaluations[0]) is greater_is_better(spec.best_by)
    published = records[-1]["metrics"][f"eval_{spec.best_by}"]
    assert published == pytest.approx(best, abs=1e-4, rel=1e-3)
    model = tmp_path / "out" / "model"
    verify(model)
    lines = [json.loads(line) for line in (model / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == kind.evaluation
    kind.agrees(model, lines)


@pytest.mark.parametrize("task", TASKS)
def test_the_first_losses_are_those_that_were_written_down(task: str, tmp_path: Path) -> None:
    losses = series(train(body(task, "trainer", "full", max_steps=5), KINDS[task], tmp_path), "loss")
    # Another processor adds up in another order: with SSE, AVX2 and AVX-512 they differ by 3e-6 at most.
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[task], rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_random_batches_give_the_losses_of_earlier_versions(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_torch_dropout(monkeypatch)
    spec = body(task, "trainer", "full", max_steps=5, batching="random")
    losses = series(train(spec, KINDS[task], tmp_path), "loss")
    assert losses == pytest.approx(json.loads(GOLDEN_RANDOM.read_text())[task], rel=1e-4)
