"""Turns a request and its checked rows into the plan that an engine follows."""

import threading
from pathlib import Path
from typing import Any

from worker.training.inputs.data import Data
from worker.training.inputs.stream import Stream
from worker.training.loop.course import Course
from worker.training.methods import METHODS
from worker.training.methods.lora import ADAPTER
from worker.training.models.pretrained import BaseModel, load_config, load_tokenizer, locate
from worker.training.planning.plan import Plan
from worker.training.planning.resolve import count_sequences, resolve
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest
from worker.training.tasks.protocol import Task
from worker.training.tokens.cache import open_cache
from worker.training.tokens.tokenization import tokenize


def settle(request: TrainingRequest, task: Task, data: Data, report: Reporter, stop: threading.Event) -> Plan:
    """Settle what is open, build the initial model, and tokenize the rows.

    Raises the errors of models, resolve and tokenization, and Stopped.
    """
    spec, scratch = request.spec, request.out_dir / "staging"
    base = _base(request, task)
    tokenizer, config = load_tokenizer(_tokenizer_folder(request, base)), load_config(base.folder, spec)
    task.check(spec, tokenizer, config)
    resolved = resolve(request, data, base, config, tokenizer, report)
    initial, head = _initial(request, task, base, resolved.labels, tokenizer, report)
    report.phase("tokenizing")
    cache = open_cache(request.token_cache, request.token_cache_bytes)
    encoded = tokenize(data.splits, task, tokenizer, spec, resolved, scratch, report, stop, cache=cache)
    if request.resume_from is None:
        resolved = count_sequences(resolved, spec, len(encoded["train"]), report)
    rows = data.splits["train"].stream
    return Plan(
        spec=spec,
        resolved=resolved,
        task=task,
        tokenizer=tokenizer,
        initial=initial,
        head=head,
        tables=data.splits,
        encoded=encoded,
        stream=None if rows is None else Stream(rows, task, tokenizer, spec, resolved, report, stop),
        base=base.folder,
        out_dir=request.out_dir,
        resume_from=request.resume_from,
        report=report,
        stop=stop,
        threads=request.threads,
        tensorflow_python=request.tensorflow_python,
    )


def _base(request: TrainingRequest, task: Task) -> BaseModel:
    # A checkpoint of whole models is all that is needed: neither the hub nor the models folder again.
    if request.resume_from is None or task.needs_reference_model or (request.resume_from / ADAPTER).is_file():
        return locate(request)
    return BaseModel(request.resume_from, request.resolved.model_commit if request.resolved else None)


def _tokenizer_folder(request: TrainingRequest, base: BaseModel) -> Path:
    return request.resume_from or base.folder


def _initial(
    request: TrainingRequest, task: Task, base: BaseModel, labels: list[str], tokenizer: Any, report: Reporter
) -> tuple[Path, tuple[str, ...]]:
    if request.resume_from is not None:
        return request.resume_from, Course.head_at(request.resume_from)
    model, head = METHODS[request.spec.training.method.type].begin(task, base.folder, request.spec, labels)
    model.config.pad_token_id = tokenizer.pad_token_id
    if not head and request.spec.task.target_role is not None:
        report.note("the model brings a head of the right size, which is trained on as it is")
    if not head and request.spec.training.head_learning_rate is not None:
        report.note(
            "training.head_learning_rate is not used: it is for a newly made head; "
            f"all weights learn at learning_rate {request.spec.training.learning_rate:g}"
        )
    folder = request.out_dir / "staging" / "initial"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, head
