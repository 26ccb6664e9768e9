"""Which tasks, engines and methods work together, and with which other values of a spec."""

import json
from collections.abc import Mapping
from typing import Any, cast

from app.specs.engines import ENGINE_FACTS
from app.specs.methods import METHOD_FACTS
from app.specs.tasks import TASKS
from app.specs.tasks.base import Limits, TaskSpec

METHOD = "training.method.type"
BATCHING = "training.batching"


def incompatibility(spec: Any) -> tuple[str, str] | None:
    """The first field of a spec that its task, engine or method does not support, and why; None if all work together."""
    engine, method = spec.training.engine, spec.training.method.type
    sides: list[tuple[str, Limits, Mapping[str, Limits]]] = [
        (f"the engine {engine}", _of_engine(engine), {name: _of_engine(name) for name in ENGINE_FACTS}),
        (
            f"the method {method}",
            METHOD_FACTS[method].limits,
            {name: facts.limits for name, facts in METHOD_FACTS.items()},
        ),
        (
            f"the task {spec.task.type}",
            {**_ways(TASKS[spec.task.type]), **spec.task.supported},
            {name: _of_task(task) for name, task in TASKS.items()},
        ),
    ]
    for name, limits, others in sides:
        for path, supported in limits.items():
            for value in _at(spec, path):
                if not _includes(supported, value):
                    return path, _refusal(name, path, value, supported, others)
    return None


def supports(engine: str, path: str, value: Any) -> bool:
    """Whether the engine supports this value of this field."""
    return _includes(_of_engine(engine).get(path, (value,)), value)


def engines_for(task: str) -> dict[str, dict[str, list[Any]]]:
    """The engines that can train a task, each with its limits."""
    return {
        name: {path: list(supported) for path, supported in ENGINE_FACTS[name].limits.items()}
        for name in ENGINE_FACTS
        if name in TASKS[task].engines
    }


def methods_for(task: str) -> dict[str, list[str]]:
    """The methods that a task can be trained with, each with the engines that support it."""
    return {
        method: [name for name in engines_for(task) if supports(name, METHOD, method)]
        for method in METHOD_FACTS
        if method in TASKS[task].methods
    }


def _of_engine(engine: str) -> Limits:
    tasks = tuple(name for name, task in TASKS.items() if engine in task.engines)
    return {**ENGINE_FACTS[engine].limits, "task.type": tasks}


def _of_task(task: type[TaskSpec]) -> Limits:
    return {**_ways(task), **task.limits}


def _ways(task: type[TaskSpec]) -> Limits:
    return {METHOD: task.methods, BATCHING: ("auto", *task.batchings)}


def _at(spec: Any, path: str) -> list[Any]:
    for name in path.split("."):
        # A task or method without such a field has nothing to limit there.
        spec = getattr(spec, name, [])
    return cast("list[Any]", spec) if isinstance(spec, list) else [spec]


def _includes(supported: tuple[Any, ...], value: Any) -> bool:
    # 0 and False are equal, but mean different things.
    return any(value == known and type(value) is type(known) for known in supported)


def _refusal(name: str, path: str, value: Any, supported: tuple[Any, ...], others: Mapping[str, Limits]) -> str:
    able = [other for other, limits in others.items() if _includes(limits.get(path, (value,)), value)]
    here = f"only {' or '.join(map(json.dumps, supported))}" if supported else "nothing"
    kind = name.split()[1]
    return f"{name} supports {here} here; {json.dumps(value)} works with {' and '.join(able) or f'no {kind}'}"
