"""Builds the artifact of a job: `OUT_DIR/model`, a folder that transformers loads and people can read.

config.json  model.safetensors  tokenizer.json  …    the model, as save_pretrained writes it
README.md                                            the model card
job.json                                             the spec as asked, what it was resolved to, the metrics
evaluation/predictions.jsonl                         one line an eval row, if the spec asks for it
evaluation/report.json                               numbers for each class
saved_model/                                         TensorFlow's own format, if the spec asks for it
manifest.json                                        path, size and SHA-256 of each file, written last
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.training.checkpoints.checkpoint_manager import TrainedModel
from worker.training.checkpoints.folders import Manifest, commit, copy_model
from worker.training.evaluation.evaluation import SplitEvaluation
from worker.training.export.card import model_card
from worker.training.loop.state import TrainingState
from worker.training.planning.plan import Plan


@dataclass(frozen=True)
class FinalEvaluation:
    """The evaluation of the published model."""

    metrics: dict[str, float | None]
    """Flat: eval_*, test_*, train_loss. None where a metric is undefined for the rows."""
    of_eval: SplitEvaluation | None
    """None without eval rows."""
    chance: dict[str, float] = field(default_factory=dict[str, float])
    """What a model that ignores its inputs reaches on eval, by metric."""


def package(plan: Plan, trained: TrainedModel, folder: Path, evaluation: FinalEvaluation) -> Manifest:
    """Commit `OUT_DIR/model` from the model in `folder`. Raises OSError if the disk refuses."""
    state, evaluated = trained.state, evaluation.of_eval
    staging = plan.scratch / "model"
    shutil.rmtree(staging, ignore_errors=True)
    copy_model(folder, staging)
    plan.task.finish(staging, plan.spec, plan.resolved)
    if trained.exports is not None:
        shutil.copytree(trained.exports, staging, dirs_exist_ok=True)
    published = state.best_step or state.step
    _write(staging / "job.json", _job(plan, state, evaluation.metrics, published))
    report = None if evaluated is None else plan.task.report(evaluated.split, evaluated.evaluated)
    (staging / "README.md").write_text(model_card(plan, state, evaluation.metrics, report), encoding="utf-8")
    if report is not None:
        _write(staging / "evaluation" / "report.json", report)
    if evaluated is not None and plan.spec.evaluation.predictions:
        _write_predictions(staging / "evaluation" / "predictions.jsonl", plan, evaluated)
    facts = {"step": published, "metrics": evaluation.metrics} | ({"job_id": plan.job_id} if plan.job_id else {})
    return commit(staging, plan.out_dir / "model", facts)


def _job(plan: Plan, state: TrainingState, metrics: dict[str, float | None], published: int) -> dict[str, Any]:
    resolved = plan.resolved.model_dump(mode="json")
    return {
        "job_id": plan.job_id,
        "spec": plan.spec.model_dump(mode="json"),
        "resolved": resolved,
        "versions": resolved["versions"],
        "seeds": {"training": plan.spec.training.seed, "subset": plan.spec.data.subset.seed},
        "datasets": resolved["datasets"],
        "published_step": published,
        "last_step": state.step,
        "metrics": metrics,
        "baseline": state.baseline,
    }


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_predictions(path: Path, plan: Plan, done: SplitEvaluation) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for prediction in plan.task.describe(done.split, done.answers.each, done.evaluated):
            file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
