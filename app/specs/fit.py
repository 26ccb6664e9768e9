"""Which tasks, engines and methods go together, and with what else of a spec: one question to three literal tables."""

import json
from collections.abc import Mapping
from typing import Any, cast

from app.specs.engines import ENGINES
from app.specs.methods import METHODS
from app.specs.tasks import TASKS
from app.specs.tasks.base import Limits

METHOD = "training.method.type"


def misfit(spec: Any) -> tuple[str, str] | None:
    """The first field of a spec that its task, engine or method cannot do, and why; None where all goes together."""
    engine, method = spec.training.engine, spec.training.method.type
    sides: list[tuple[str, Limits, Mapping[str, Limits]]] = [
        (f"the engine {engine}", ENGINES[engine].limits, {name: facts.limits for name, facts in ENGINES.items()}),
        (f"the method {method}", METHODS[method].limits, {name: facts.limits for name, facts in METHODS.items()}),
        (f"the task {spec.task.type}", spec.task.fitting, {name: task.limits for name, task in TASKS.items()}),
    ]
    for name, limits, others in sides:
        for path, taken in limits.items():
            for value in _at(spec, path):
                if not _takes(taken, value):
                    return path, _refusal(name, path, value, taken, others)
    return None


def takes(engine: str, path: str, value: Any) -> bool:
    """Whether the engine can do this value of this field."""
    return _takes(ENGINES[engine].limits.get(path, (value,)), value)


def engines_for(task: str) -> dict[str, dict[str, list[Any]]]:
    """The engines that can do a task, each with its limits."""
    return {
        name: {path: list(taken) for path, taken in facts.limits.items() if path != "task.type"}
        for name, facts in ENGINES.items()
        if takes(name, "task.type", task)
    }


def methods_for(task: str) -> dict[str, list[str]]:
    """The methods that can be used for a task, each with the engines that know it."""
    mine = TASKS[task].limits
    return {
        method: [name for name in engines_for(task) if takes(name, METHOD, method)]
        for method in METHODS
        if _takes(mine.get(METHOD, (method,)), method)
    }


def _at(spec: Any, path: str) -> list[Any]:
    for name in path.split("."):
        # A task or method without such a field has nothing to limit there.
        spec = getattr(spec, name, [])
    return cast("list[Any]", spec) if isinstance(spec, list) else [spec]


def _takes(taken: tuple[Any, ...], value: Any) -> bool:
    # 0 and False are equal, and mean different things.
    return any(value == known and type(value) is type(known) for known in taken)


def _refusal(name: str, path: str, value: Any, taken: tuple[Any, ...], others: Mapping[str, Limits]) -> str:
    able = [other for other, limits in others.items() if _takes(limits.get(path, (value,)), value)]
    here = f"only {' or '.join(map(json.dumps, taken))}" if taken else "nothing"
    kind = name.split()[1]
    return f"{name} takes {here} here; {json.dumps(value)} works with {' and '.join(able) or f'no {kind}'}"
