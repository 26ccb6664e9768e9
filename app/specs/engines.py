"""The engines, and what each can do of what a spec may ask for.

A limit is a path into the spec and the values that the engine takes there; what has no limit it takes as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

Limits = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class EngineFacts:
    """What people should know of an engine before they choose it."""

    description: str
    limits: Limits = field(default_factory=dict[str, tuple[Any, ...]])


NO_EXPORT: Limits = {"export": ()}

ENGINES: dict[str, EngineFacts] = {
    "trainer": EngineFacts("The Hugging Face Trainer.", NO_EXPORT),
    "pytorch": EngineFacts("A native PyTorch loop over accelerate.", NO_EXPORT),
    "tensorflow": EngineFacts(
        "Keras on TensorFlow, on the CPU, for BERT-like encoders; only on workers that have its environment.",
        {
            "task.type": ("text-classification",),
            "task.problem": ("single-label",),
            "model.attn_implementation": ("auto", "eager"),
            "training.method.type": ("full",),
            "training.optimizer": ("adamw", "sgd"),
            "training.head_learning_rate": (None,),
            "training.gradient_checkpointing": (False,),
            "training.precision": ("auto", "fp32"),
            "resources.gpus": ("auto", 0),
        },
    ),
}
"""Every `training.engine`. A worker offers all of them but those whose environment it lacks."""


def takes(engine: str, path: str, value: Any) -> bool:
    """Whether the engine can do this value of this field."""
    return _takes(ENGINES[engine].limits.get(path, (value,)), value)


def misfit(engine: str, spec: Any) -> tuple[str, str] | None:
    """The first field of the spec that the engine cannot do, and why; None where it can do all."""
    for path, taken in ENGINES[engine].limits.items():
        for value in _at(spec, path):
            if not _takes(taken, value):
                return path, _refusal(engine, path, value, taken)
    return None


def engines_for(task: str) -> dict[str, dict[str, list[Any]]]:
    """The engines that can do a task, each with its limits."""
    return {
        name: {path: list(taken) for path, taken in facts.limits.items() if path != "task.type"}
        for name, facts in ENGINES.items()
        if takes(name, "task.type", task)
    }


def _at(spec: Any, path: str) -> list[Any]:
    for name in path.split("."):
        # A task or method without such a field has nothing to limit there.
        spec = getattr(spec, name, [])
    return cast("list[Any]", spec) if isinstance(spec, list) else [spec]


def _takes(taken: tuple[Any, ...], value: Any) -> bool:
    # 0 and False are equal, and mean different things.
    return any(value == known and type(value) is type(known) for known in taken)


def _refusal(engine: str, path: str, value: Any, taken: tuple[Any, ...]) -> str:
    able = [name for name in ENGINES if takes(name, path, value)]
    here = f"only {' or '.join(map(json.dumps, taken))}" if taken else "nothing"
    return f"the engine {engine} takes {here} here; {json.dumps(value)} works with {' and '.join(able) or 'no engine'}"
