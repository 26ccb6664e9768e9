"""The engines, and which values of a spec each supports.

A limit is a path into the spec and the values that the engine supports there. A field without a limit supports every
value.
Each task lists the engines that can train it (`TaskSpec.engines`).
"""

from dataclasses import dataclass, field
from typing import Any

from app.specs.tasks.base import Limits


@dataclass(frozen=True)
class EngineFacts:
    """The description of an engine, and its limits."""

    description: str
    limits: Limits = field(default_factory=dict[str, tuple[Any, ...]])


NO_EXPORT: Limits = {"export": ()}

ENGINE_FACTS: dict[str, EngineFacts] = {
    "trainer": EngineFacts("The Hugging Face Trainer.", NO_EXPORT),
    "pytorch": EngineFacts(
        "A native PyTorch loop over accelerate.",
        NO_EXPORT,
    ),
    "tensorflow": EngineFacts(
        "Keras on TensorFlow, on the CPU, for BERT-like encoders; only on workers that have its environment.",
        {
            "task.problem": ("single-label",),
            "model.attn_implementation": ("auto", "eager"),
            "training.method.type": ("full",),
            "training.optimizer": ("adamw", "sgd"),
            "training.head_learning_rate": (None,),
            "training.batch_tokens": (None,),
            "training.gradient_checkpointing": (False,),
            "training.precision": ("auto", "fp32"),
            "training.compile": ("auto", "never"),
            "resources.gpus": ("auto", 0),
        },
    ),
}
"""Every `training.engine`. A worker offers all except those whose environment it lacks."""
