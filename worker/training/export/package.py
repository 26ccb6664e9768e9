"""Puts together what a job hands out: `OUT_DIR/model`, a folder that transformers loads and people can read.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.training.checkpoints.folders import Manifest, commit
from worker.training.checkpoints.shelf import copy_model
from worker.training.errors import without_none
from worker.training.export.card import model_card
from worker.training.loop.course import Course
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import Told


@dataclass(frozen=True)
class Judgement:
    """What a model says of one split, and how that is read."""

    answers: Answers
    told: Told


@dataclass(frozen=True)
class Judged:
    """What was found out about the published model."""

    metrics: dict[str, float]
    """Flat: eval_*, test_*, train_loss."""
    evaluation: Judgement | None
    """Of the eval rows, where there are some."""


def package(
    plan: Plan, course: Course, folder: Path, exports: Path | None, judged: Judged, job_id: str | None
) -> Manifest:
    """Commit `OUT_DIR/model` from the model in `folder`, with what is in `exports` beside it.

    Raises OSError where the disk says no.
    """
    staging = plan.scratch / "model"
    shutil.rmtree(staging, ignore_errors=True)
    copy_model(folder, staging)
    plan.task.finish(staging, plan.spec, plan.resolved)
    if exports is not None:
        shutil.copytree(exports, staging, dirs_exist_ok=True)
    published = course.best_step or course.step
    _write(staging / "job.json", _job(plan, course, judged, job_id, published))
    report = None if judged.evaluation is None else plan.task.report(plan.split("eval"), judged.evaluation.told)
    (staging / "README.md").write_text(model_card(plan, course, judged.metrics, report, job_id), encoding="utf-8")
    if report is not None:
        _write(staging / "evaluation" / "report.json", report)
    if judged.evaluation is not None and plan.spec.evaluation.predictions:
        _write_predictions(staging / "evaluation" / "predictions.jsonl", plan, judged.evaluation)
    facts = without_none({"step": published, "job_id": job_id, "metrics": judged.metrics})
    return commit(staging, plan.out_dir / "model", facts)


def _job(plan: Plan, course: Course, judged: Judged, job_id: str | None, published: int) -> dict[str, Any]:
    resolved = plan.resolved.model_dump(mode="json")
    return {
        "job_id": job_id,
        "spec": plan.spec.model_dump(mode="json"),
        "resolved": resolved,
        "versions": resolved["versions"],
        "seeds": {"training": plan.spec.training.seed, "subset": plan.spec.data.subset.seed},
        "datasets": resolved["datasets"],
        "published_step": published,
        "last_step": course.step,
        "metrics": judged.metrics,
        "baseline": course.baseline,
    }


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_predictions(path: Path, plan: Plan, judgement: Judgement) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for told in plan.task.describe(plan.split("eval"), judgement.answers.each, judgement.told):
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
