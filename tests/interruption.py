"""Runs that are stopped after a step of one's choice and resumed, in the process of the test."""

from collections.abc import Callable
from typing import Any

from app.specs import JobSpec
from worker.training.checkpoints.folders import newest_valid
from worker.training.reports import Record

Train = Callable[..., Any]


def to_end_with(step: int) -> Callable[[Record], bool]:
    """Ask to stop in time for this step to be the last: its predecessor's loss is logged when that one is over."""
    if step == 1:
        return lambda record: record["type"] == "progress"
    return lambda record: "loss" in record.get("values", {}) and record["step"] >= step - 1


def interrupted(train: Train, asked: JobSpec, stop: int, **changed: int) -> Any:
    """Stop after a step and resume; `changed` is what the second attempt finds changed anew."""
    name = f"interrupted-{stop}-{len(changed)}"
    first = train(asked, name, to_end_with(stop))
    assert (first.result["status"], first.result["step"]) == ("stopped", stop)
    checkpoint = newest_valid(first.out_dir / "checkpoints")
    assert checkpoint is not None
    resolved = first.resolved.model_copy(update=changed)
    return train(asked, name, resolved=resolved, resume_from=checkpoint)
