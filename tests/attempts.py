"""Outcomes of attempts, for tests that train nothing."""

from tiny import spec

from app.failures import Failure, FailureCode
from app.jobs.decision import RetryPolicy
from app.jobs.outcomes import Failed, OutOfMemory, Stopped, StopReason
from app.specs import JobSpec, Resolved

POLICY = RetryPolicy(max_failures=5, max_workers_lost=5, max_stalled=5, backoff_seconds=0)

PERMANENT = Failed(Failure.of(FailureCode.BAD_ROWS, "row 3 of train has no text"))
RETRYABLE = Failed(Failure.of(FailureCode.TRAINING_PROCESS_DIED, "the training process ended without a result"))
POSTPONED = Failed(Failure.of(FailureCode.STORAGE_FULL, "the storage is full"))
CANCELLED = Stopped(StopReason.CANCEL)
PAUSED = Stopped(StopReason.PAUSE)
RELEASED = Stopped(StopReason.WORKER_STOPPING)
TIMED_OUT = Stopped(StopReason.TIMEOUT)


def resolved(**more: object) -> Resolved:
    """What an attempt resolved."""
    usual: dict[str, object] = {
        "labels": ["a", "b"], "precision": "fp32", "batch_size": 16, "gradient_accumulation": 2, "eval_batch_size": 32,
        "device": "cpu", "max_length": 128, "total_steps": 9, "metrics": [], "best_by": None, "model_commit": None,
        "datasets": {}, "rows": {}, "skipped_rows": 0, "versions": {},
    }  # fmt: skip
    return Resolved.model_validate({**usual, **more})


def out_of_memory(
    phase: str = "training",
    batch_size: int | str = "auto",
    eval_batch_size: int | str = "auto",
    settings: Resolved | None = None,
) -> OutOfMemory:
    """An attempt that ran out of memory in this phase."""
    asked = spec(training={"batch_size": batch_size}, evaluation={"batch_size": eval_batch_size})
    return OutOfMemory(phase, JobSpec.model_validate(asked), settings or resolved())
