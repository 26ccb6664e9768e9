"""One attempt at one job, from the rows to a packaged model: a pipe that ends in exactly one result record."""

import logging
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import datasets
import torch
from transformers.utils import logging as transformers_logging

from worker.training.checkpoints.checkpoint_manager import TrainedModel
from worker.training.engines import ENGINES, Engine
from worker.training.errors import InternalError, Stopped, TrainingError
from worker.training.evaluation.diagnosis import diagnose
from worker.training.evaluation.evaluation import SplitEvaluation, evaluate
from worker.training.evaluation.prediction import with_references
from worker.training.export.package import FinalEvaluation, package
from worker.training.inputs.data import load_data
from worker.training.methods import export, publishes_as_trained
from worker.training.planning.plan import Plan
from worker.training.planning.planner import make_plan
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest
from worker.training.shortage import shortage_of
from worker.training.tasks import TASKS

log = logging.getLogger(__name__)


def run(request: TrainingRequest, report: Reporter, stop: threading.Event) -> None:
    """Run the job. Every end, expected or not, is one `result` record. Nothing is raised.

    `stop` is polled between batches and steps. Once it is set, training ends with a checkpoint and `stopped`.
    """
    report.step = _step_of(request.resume_from)
    try:
        _attempt(request, report, stop)
    except Stopped:
        report.result("stopped", report.step)
    except TrainingError as error:
        _fail(report, error)
    except Exception as error:
        known = shortage_of(error, request.out_dir)
        if known is None:
            log.exception("training ended with an unexpected error")
        # On a full disk, the record below needs some room too.
        _clear_scratch(request)
        _fail(report, known or InternalError.of(error))


def _attempt(request: TrainingRequest, report: Reporter, stop: threading.Event) -> None:
    _be_quiet(request.threads)
    task, engine = TASKS[request.spec.task.type], ENGINES[request.spec.training.engine]
    report.phase("preparing")
    _clear_scratch(request)
    data = load_data(request, report, stop)
    plan = make_plan(request, task, data, report, stop)
    if task.needs_reference_model:
        report.phase("evaluating")
        plan = with_references(plan)
    trained = engine.train(plan)
    report.step = trained.state.step
    if trained.folder is None:
        raise Stopped
    # Without a checkpoint of the last step, a stop from here on would lose the whole training. Then it is ignored.
    final = plan if trained.is_saved else replace(plan, stop=threading.Event())
    report.phase("evaluating")
    folder = export(final, trained.folder)
    evaluation = _evaluate(final, engine, trained, folder)
    for warning in diagnose(report.series, evaluation.metrics, evaluation.chance):
        report.warn(warning)
    report.phase("packaging")
    package(final, trained, folder, evaluation)
    shutil.rmtree(plan.scratch, ignore_errors=True)
    report.result("succeeded", trained.state.step, metrics=evaluation.metrics, model_path="model")


def _evaluate(plan: Plan, engine: Engine, trained: TrainedModel, folder: Path) -> FinalEvaluation:
    state, known = trained.state, trained.evaluation if publishes_as_trained(plan) else None
    metrics: dict[str, float | None] = {}
    evaluations: dict[str, SplitEvaluation] = {}
    for split in ("eval", "test"):
        if split not in plan.encoded:
            continue
        if split == "eval" and known is not None:
            evaluations[split] = known
        else:
            evaluations[split] = evaluate(plan, split, engine.predict(plan, folder, split))
        metrics |= evaluations[split].metrics
        if split == "test" or not plan.spec.evaluates:
            plan.report.metric(state.step, round(state.epoch, 4), evaluations[split].metrics)
    if state.train_loss is not None:
        metrics["train_loss"] = state.train_loss
    of_eval = evaluations.get("eval")
    chance = {} if of_eval is None else plan.task.chance(of_eval.split, of_eval.evaluated)
    return FinalEvaluation(metrics, of_eval, {f"eval_{name}": value for name, value in chance.items()})


def _fail(report: Reporter, error: TrainingError) -> None:
    failure = error.failure
    report.result("failed", report.step, error=failure.to_json(), retryable=failure.retryable)


def _step_of(checkpoint: Path | None) -> int:
    digits = checkpoint.name.removeprefix("step-") if checkpoint else ""
    return int(digits) if digits.isdigit() else 0


def _clear_scratch(request: TrainingRequest) -> None:
    # These are leftovers of a killed attempt. A checkpoint to resume from may also be in this folder, so it stays.
    for name in ("trainer", "checkpoint", "tensorflow", "initial", "final", "published", "model"):
        shutil.rmtree(request.out_dir / "staging" / name, ignore_errors=True)


def _be_quiet(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
