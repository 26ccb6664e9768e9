"""Which features a job uses, and which features this version knows.

A feature is a path into the spec (`training.warmup_steps`) or a path and a value (`training.scheduler=cosine`). Both
lists are derived from the spec models, so a field or value that a newer version adds automatically becomes a feature. A
job stores the features that it uses. A worker announces those that it knows, and claims only jobs whose features it
knows. With its default value, a new optional field must therefore behave like the previous version.
"""

from collections.abc import Collection, Iterator
from functools import cache
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.specs.compatibility import methods_for
from app.specs.engines import ENGINE_FACTS
from app.specs.job import JobSpec
from app.specs.tasks import TASKS

ENGINE = "training.engine="
LOCAL_MODEL = "model.id=local:"
SERVICE_FIELDS = frozenset({"name", "metadata", "priority", "resources.timeout"})
"""Fields that only the service reads, so that a worker need not know them."""
TAG = "type"


def used_features(spec: JobSpec) -> list[str]:
    """The features that a worker must know to run this job: what differs from the defaults, sorted."""
    task, engine = spec.task.type, spec.training.engine
    metrics = {*(spec.evaluation.metrics or ()), *filter(None, [spec.evaluation.best_by])} - {"loss"}
    return sorted(
        {
            *_used(spec, ""),
            engine_feature(engine),
            _combination(task, engine, spec.training.method.type),
            *(_metric(task, metric) for metric in metrics),
            *([f"model.id={spec.model.id}"] if spec.model.id.startswith("local:") else []),
        }
    )


def known_features(engines: Collection[str] = tuple(ENGINE_FACTS)) -> frozenset[str]:
    """The features that this version knows, on a worker that offers these engines."""
    combinations = {
        _combination(task, engine, method)
        for task in TASKS
        for method, able in methods_for(task).items()
        for engine in able
        if engine in engines
    }
    absent = {engine_feature(engine) for engine in ENGINE_FACTS if engine not in engines}
    metrics = {_metric(name, metric) for name, task in TASKS.items() for metric in task.all_metrics()}
    return _fields() - absent | {engine_feature(engine) for engine in engines} | combinations | metrics


def engine_feature(engine: str) -> str:
    """The feature of an engine. Every job has one, because a worker may lack the environment of an engine."""
    return f"{ENGINE}{engine}"


def local_model_feature(name: str) -> str:
    """The feature of a local model. A worker announces those that are in its models folder."""
    return f"{LOCAL_MODEL}{name}"


def _combination(task: str, engine: str, method: str) -> str:
    # A version may know a task and an engine without knowing how to use them together.
    return f"task.type={task} with {ENGINE}{engine} and training.method.type={method}"


def _metric(task: str, metric: str) -> str:
    return f"evaluation.metrics={metric} of {task}"


def _used(model: BaseModel, prefix: str) -> Iterator[str]:
    for name, field in type(model).model_fields.items():
        path, value = f"{prefix}{name}", getattr(model, name)
        if path in SERVICE_FIELDS or name == TAG:
            continue
        is_default = not field.is_required() and value == field.get_default(call_default_factory=True)
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not (is_default or field.is_required()):
            yield from _of_values(path, field, items)
        for item in items:
            if isinstance(item, BaseModel):
                if not is_default and (tag := _tag(field, type(item))):
                    yield f"{path}={tag}"
                yield from _used(item, _inside(path, field, type(item)))


def _of_values(path: str, field: FieldInfo, items: list[Any]) -> Iterator[str]:
    literals = list(_literals(field.annotation))
    yield from (f"{path}={item}" if item in literals else path for item in items)


@cache
def _fields() -> frozenset[str]:
    return frozenset(_known(JobSpec, ""))


def _known(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if path in SERVICE_FIELDS or name == TAG:
            continue
        yield path
        yield from (f"{path}={value}" for value in _literals(field.annotation))
        for member in _models(field.annotation):
            if tag := _tag(field, member):
                yield f"{path}={tag}"
            yield from _known(member, _inside(path, field, member))


def _inside(path: str, field: FieldInfo, model: type[BaseModel]) -> str:
    tag = _tag(field, model)
    return f"{path}[{tag}]." if tag else f"{path}."


def _tag(field: FieldInfo, model: type[BaseModel]) -> str | None:
    """What distinguishes this model from the others that the field may hold; None if there are no others."""
    if len(list(_models(field.annotation))) == 1:
        return None
    tagged = model.model_fields.get(TAG)
    return str(get_args(tagged.annotation)[0]) if tagged else next(iter(model.model_fields))


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for inner in get_args(annotation):
            yield from _literals(inner)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            yield from _models(inner)
