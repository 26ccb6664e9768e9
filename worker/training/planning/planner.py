"""Turns a request and its checked rows into the plan that an engine follows."""

import threading
from typing import Any

from worker.training.engines import ENGINES
from worker.training.inputs.data import Data
from worker.training.loop.state import TrainingState
from worker.training.methods import METHODS
from worker.training.methods.lora import ADAPTER
from worker.training.models.pretrained import BaseModel, load_config, load_tokenizer, locate, token_limit
from worker.training.planning.initial import InitialModel
from worker.training.planning.plan import Plan
from worker.training.planning.resolve import count_steps, resolve
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest
from worker.training.tasks.protocol import Task
from worker.training.tokens.cache import open_cache
from worker.training.tokens.tokenization import Encoder, lengths, tokenize


def make_plan(request: TrainingRequest, task: Task, data: Data, report: Reporter, stop: threading.Event) -> Plan:
    """Resolve what is open, build the initial model, and tokenize the rows.

    Raises the errors of models, resolve and tokenization, EngineMissing and Stopped.
    """
    spec, scratch = request.spec, request.out_dir / "staging"
    base = _base(request, task, report)
    tokenizer, config = load_tokenizer(request.resume_from or base.folder), load_config(base.folder, spec)
    task.check(spec, tokenizer, config)
    limit, versions = token_limit(config, tokenizer), ENGINES[spec.training.engine].versions(request.tensorflow_python)
    resolved = resolve(request, data, base.commit, limit, versions, report)
    initial = _initial(request, task, base, resolved.labels, tokenizer, report)
    report.phase("tokenizing")
    cache = open_cache(request.token_cache, request.token_cache_bytes)
    encoded = tokenize(data.splits, Encoder(task, tokenizer, spec, resolved), cache, scratch, report, stop)
    if request.resume_from is None:
        resolved = count_steps(resolved, spec, lengths(encoded["train"]), report)
    return Plan(
        spec=spec,
        resolved=resolved,
        task=task,
        tokenizer=tokenizer,
        initial=initial,
        tables=data.splits,
        encoded=encoded,
        base=base.folder,
        out_dir=request.out_dir,
        resume_from=request.resume_from,
        report=report,
        stop=stop,
        job_id=request.job_id,
        is_first_attempt=request.resolved is None,
        threads=request.threads,
        tensorflow_python=request.tensorflow_python,
        compile_cache=request.compile_cache,
    )


def _base(request: TrainingRequest, task: Task, report: Reporter) -> BaseModel:
    # A checkpoint of a whole model needs neither the hub nor the models folder again.
    if request.resume_from is None or task.needs_reference_model or (request.resume_from / ADAPTER).is_file():
        return locate(request, report)
    return BaseModel(request.resume_from, request.resolved.model_commit if request.resolved else None)


def _initial(
    request: TrainingRequest, task: Task, base: BaseModel, labels: list[str], tokenizer: Any, report: Reporter
) -> InitialModel:
    if request.resume_from is not None:
        return InitialModel(request.resume_from, TrainingState.head_at(request.resume_from))
    model, head = METHODS[request.spec.training.method.type].begin(task, base.folder, request.spec, labels)
    model.config.pad_token_id = tokenizer.pad_token_id
    if not head and request.spec.task.target_role is not None:
        report.note("the model already has a head of the right size; training continues from its weights")
    if not head and request.spec.training.head_learning_rate is not None:
        report.note(
            "training.head_learning_rate is not used, because the head is not randomly initialized; "
            f"all weights learn at learning_rate {request.spec.training.learning_rate:g}"
        )
    return InitialModel(request.out_dir / "staging" / "initial", head, model, tokenizer)
