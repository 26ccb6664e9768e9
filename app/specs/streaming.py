"""What a train that is streamed from the hub cannot have: all that needs its rows before the first step."""

from collections.abc import Iterator
from typing import Any

from app.specs.data import Data, HubData
from app.specs.training import Training

ENGINES = ("trainer", "pytorch")


def stream_incompatibility(data: Data, training: Training, task: Any) -> tuple[str, str] | None:
    """The first field that does not go with streaming, and why; None where nothing is streamed, or all goes together."""
    for split, source in (("eval", data.eval), ("test", data.test)):
        if isinstance(source, HubData) and source.streaming:
            return f"data.{split}.streaming", "evaluation data is read whole; use a slice, such as split 'test[:1000]'"
    if not (isinstance(data.train, HubData) and data.train.streaming):
        return None
    return next(_incompatibilities(data, training, task, data.train), None)


def _incompatibilities(data: Data, training: Training, task: Any, train: HubData) -> Iterator[tuple[str, str]]:
    if "[" in train.split:
        yield "data.train.split", "streaming reads a split from its beginning; name it without a slice"
    if training.max_steps is None:
        yield "training.max_steps", "is needed with streaming: nobody knows how many rows a stream has"
    if data.eval_fraction is not None:
        yield "data.eval_fraction", "a stream cannot be divided; name rows in data.eval, such as split 'test[:1000]'"
    if data.subset.train is not None:
        yield "data.subset.train", "a stream cannot be sampled; training.max_steps says how much of it is used"
    if training.class_weights == "balanced":
        yield "training.class_weights", "a stream's classes cannot be counted; give each class its weight, by name"
    if getattr(task, "packing", False):
        yield "task.packing", "rows of a stream are not packed; leave packing out, or streaming"
    if training.engine not in ENGINES:
        yield "training.engine", f"streaming works with {' and '.join(ENGINES)}"
    if not task.streams:
        yield "data.train.streaming", f"{task.type} looks at every row before the first step, and a stream has no end"
