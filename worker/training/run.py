"""One attempt at one job, from the rows to a packaged model: a pipe that ends in exactly one result record."""

import logging
import shutil
import threading
from pathlib import Path

import datasets
import torch
from transformers.utils import logging as transformers_logging

from worker.training.checkpoints.shelf import Outcome
from worker.training.engines import ENGINES
from worker.training.errors import InternalError, Stopped, TrainingError, without_none
from worker.training.evaluation.evaluation import judge_told
from worker.training.evaluation.references import with_references
from worker.training.export.package import Judged, Judgement, package
from worker.training.inputs.data import load, prepare
from worker.training.loop.course import Course
from worker.training.loop.rehearsal import rehearse
from worker.training.methods import publish
from worker.training.planning.plan import Plan
from worker.training.planning.settle import settle
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest
from worker.training.shortage import shortage_of
from worker.training.tasks import TASKS

log = logging.getLogger(__name__)

REHEARSED = ("trainer", "pytorch")
"""Engines whose steps cost what PyTorch's do. Another attempt has nothing new to find out."""


def run(request: TrainingRequest, report: Reporter, stop: threading.Event) -> None:
    """Do the job. Every end, expected or not, is one `result` record; nothing is raised.

    `stop` is polled between batches and steps; training then ends with a checkpoint and `stopped`.
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
            log.exception("training ended in an unforeseen error")
        # Where the disk is full, the record below needs some room too.
        _clear_scratch(request)
        _fail(report, known or InternalError.of(error))


def _attempt(request: TrainingRequest, report: Reporter, stop: threading.Event) -> None:
    _be_quiet(request.threads)
    task = TASKS[request.spec.task.type]
    report.phase("preparing")
    _clear_scratch(request)
    data = prepare(load(request), request.spec, report, stop)
    plan = settle(request, task, data, report, stop)
    report.phase("training")
    if task.needs_reference_model:
        plan = with_references(plan)
    if request.resolved is None and plan.spec.training.engine in REHEARSED:
        rehearse(plan)
    outcome, folder = _train(plan)
    course = outcome.course
    # Without a checkpoint of the last step, a stop from here on would lose the whole training: then we finish.
    ending = plan if outcome.is_saved else _unstoppable(plan)
    report.phase("evaluating")
    published = publish(ending, folder)
    judged = _judge(ending, course, published)
    report.phase("packaging")
    package(ending, course, published, outcome.exports, judged, request.job_id)
    shutil.rmtree(plan.scratch, ignore_errors=True)
    report.result("succeeded", course.step, metrics=judged.metrics, model_path="model")


def _train(plan: Plan) -> tuple[Outcome, Path]:
    outcome = ENGINES[plan.spec.training.engine].train(plan)
    plan.report.step = outcome.course.step
    if outcome.folder is None:
        raise Stopped
    return outcome, outcome.folder


def _judge(plan: Plan, course: Course, folder: Path) -> Judged:
    metrics: dict[str, float] = {}
    told: dict[str, Judgement] = {}
    engine = ENGINES[plan.spec.training.engine]
    for split in ("eval", "test"):
        if split not in plan.encoded:
            continue
        answers = engine.predict(plan, folder, split)
        told[split] = Judgement(answers, plan.task.tell(plan.split(split), answers.each))
        found = judge_told(plan, split, told[split].told, answers.loss)
        metrics |= found
        if split == "test" or not plan.spec.evaluates:
            plan.report.metric(course.step, round(course.epoch, 4), found)
    metrics |= without_none({"train_loss": course.train_loss})
    return Judged(metrics, told.get("eval"))


def _unstoppable(plan: Plan) -> Plan:
    return Plan(**{**vars(plan), "stop": threading.Event()})


def _fail(report: Reporter, error: TrainingError) -> None:
    failure = error.failure
    report.result("failed", report.step, error=failure.to_json(), retryable=failure.retryable)


def _step_of(checkpoint: Path | None) -> int:
    digits = checkpoint.name.removeprefix("step-") if checkpoint else ""
    return int(digits) if digits.isdigit() else 0


def _clear_scratch(request: TrainingRequest) -> None:
    # What a killed attempt left; but a checkpoint to resume from may have been put there too.
    for name in ("trainer", "checkpoint", "tensorflow", "initial", "final", "published", "rehearsal", "model"):
        shutil.rmtree(request.out_dir / "staging" / name, ignore_errors=True)


def _be_quiet(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
