"""What does not work with a streamed train split: everything that needs its rows before the first step."""

from collections.abc import Iterator
from typing import Any

from app.specs.data import Data, HubData
from app.specs.training import Training

STREAMING_ENGINES = ("trainer", "pytorch")


def stream_incompatibility(data: Data, training: Training, task: Any) -> tuple[str, str] | None:
    """The first field that does not work with streaming, and why.

    None if nothing is streamed, or if all works together.
    """
    for split, source in (("eval", data.eval), ("test", data.test)):
        if isinstance(source, HubData) and source.streaming:
            return (
                f"data.{split}.streaming",
                "evaluation data cannot be streamed; limit it with a slice, such as split 'test[:1000]'",
            )
    if not (isinstance(data.train, HubData) and data.train.streaming):
        return None
    return next(_incompatibilities(data, training, task, data.train), None)


def _incompatibilities(data: Data, training: Training, task: Any, train: HubData) -> Iterator[tuple[str, str]]:
    if "[" in train.split:
        yield "data.train.split", "streaming reads a split from its beginning; name the split without a slice"
    if training.max_steps is None:
        yield "training.max_steps", "is required with streaming, because the number of rows is unknown"
    if data.eval_fraction is not None:
        yield "data.eval_fraction", "a stream cannot be split; set data.eval, such as split 'test[:1000]'"
    if data.subset.train is not None:
        yield "data.subset.train", "a stream cannot be sampled; limit it with training.max_steps"
    if training.class_weights == "balanced":
        yield (
            "training.class_weights",
            "the classes of a stream cannot be counted; give the weight of each class by name",
        )
    if getattr(task, "packing", False):
        yield "task.packing", "rows of a stream cannot be packed; turn off packing or streaming"
    if training.batch_tokens is not None:
        yield "training.batch_tokens", "needs the length of every row of train; set training.batch_size with streaming"
    if training.engine not in STREAMING_ENGINES:
        yield "training.engine", f"streaming works with {' and '.join(STREAMING_ENGINES)}"
    if not task.streams:
        yield "data.train.streaming", f"{task.type} needs every row before the first step, so it cannot be streamed"
