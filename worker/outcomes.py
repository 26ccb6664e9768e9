"""How an attempt ended, from what this worker saw of its training process or of its own errors."""

import shutil
from pathlib import Path
from typing import Any

from app.failures import Failure, FailureCode
from app.jobs.outcomes import Failed, Outcome, OutOfMemory, Stopped, StopReason
from app.jobs.tables import Job
from app.specs import JobSpec, Resolved
from app.storage import StorageError, StorageFull
from worker.memory import says_out_of_memory
from worker.prepare import SpecUnsupported, Unpreparable
from worker.supervise import KillReason, ProcessOutcome
from worker.training.errors import NO_ROOM, CheckpointBroken

FULL_BELOW_BYTES = 1024**2
"""A disk with less space than this has no room even for the last record of a process."""


def of_process(process: ProcessOutcome, job: Job, *, hung_seconds: float, is_stopping: bool, scratch: Path) -> Outcome:
    """The outcome of an attempt whose training process ended without a model.

    `hung_seconds` is how long the process may report nothing, `is_stopping` is whether this worker is stopping, and
    `scratch` is a folder on the disk that the process wrote to.
    """
    result = process.result
    if isinstance(process.asked, StopReason):
        return Stopped(process.asked)
    if process.asked is KillReason.HUNG:
        message = f"The training process reported nothing for {hung_seconds:.0f} s and was killed."
        return Failed(Failure.of(FailureCode.TRAINING_HUNG, message, log_tail=process.log_tail))
    if (result or {}).get("status") == "stopped" or (result is None and is_stopping):
        # The signal that stops this worker also reached the process, and reached it first.
        return Stopped(StopReason.WORKER_STOPPING)
    failure = _reported_failure(process)
    if ran_out_of_memory(process):
        return _out_of_memory(process, job, failure)
    return Failed(failure or _unreported_failure(process, scratch))


def of_error(error: Exception) -> Failed:
    """The outcome of an attempt that ended with an error in this worker. Its training process is dead."""
    match error:
        case SpecUnsupported():
            failure = Failure.of(FailureCode.SPEC_UNSUPPORTED, str(error))
        case Unpreparable():
            failure = Failure.of(FailureCode.INPUT_GONE, str(error))
        case StorageFull():
            failure = Failure.of(FailureCode.STORAGE_FULL, "The storage has no room for what this job must keep.")
        case StorageError():
            message = f"A storage operation failed: {type(error).__name__}."
            failure = Failure.of(FailureCode.STORAGE_UNAVAILABLE, message)
        case CheckpointBroken():
            failure = error.failure
        case OSError() if error.errno in NO_ROOM:
            failure = Failure.of(FailureCode.DISK_FULL, "The worker's disk is full.")
        case _:
            failure = Failure.of(FailureCode.INTERNAL_ERROR, f"The worker failed: {type(error).__name__}.")
    return Failed(failure)


def ran_out_of_memory(process: ProcessOutcome) -> bool:
    """Whether the process ended because memory ran out.

    A killed process counts as such only if the kernel counted an out-of-memory kill in its control group, or if its
    last output shows a failed allocation. Any other kill is a crash.
    """
    failure = _reported_failure(process)
    if process.result is not None and (failure is None or failure.code is not FailureCode.TRAINING_PROCESS_DIED):
        return failure is not None and failure.code is FailureCode.OUT_OF_MEMORY
    return process.killed_for_memory or says_out_of_memory(process.log_tail)


def _reported_failure(process: ProcessOutcome) -> Failure | None:
    error: dict[str, Any] | None = (process.result or {}).get("error")
    return None if error is None else Failure.from_json(error, log_tail=process.log_tail)


def _unreported_failure(process: ProcessOutcome, scratch: Path) -> Failure:
    if shutil.disk_usage(scratch).free < FULL_BELOW_BYTES:
        return Failure.of(FailureCode.DISK_FULL, "The worker's disk is full.", log_tail=process.log_tail)
    message = "The training process ended without a result."
    return Failure.of(FailureCode.TRAINING_PROCESS_DIED, message, log_tail=process.log_tail)


def _out_of_memory(process: ProcessOutcome, job: Job, failure: Failure | None) -> OutOfMemory:
    spec = JobSpec.from_stored(job.spec)
    stored = process.resolved or job.resolved
    reported: dict[str, Any] = (failure.details if failure else None) or {}
    return OutOfMemory(
        process.phase,
        spec,
        Resolved.read(stored, spec.training.gradient_accumulation) if stored else None,
        peak_bytes=reported.get("peak_bytes") or process.peak_bytes,
        message=failure.message if failure else None,
        log_tail=process.log_tail,
    )
