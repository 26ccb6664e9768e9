"""What a worker makes of an ended training process and of its own errors."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
from attempts import resolved
from tiny import spec

from app.failures import FailureCode
from app.jobs.outcomes import Failed, Outcome, OutOfMemory, Stopped, StopReason
from app.jobs.tables import Job
from app.specs import JobSpec
from app.storage import StorageError, StorageFull
from worker import outcomes
from worker.prepare import Unpreparable
from worker.supervise import KillReason, ProcessOutcome
from worker.training.errors import CheckpointBroken

REPORTED = {
    "status": "failed",
    "error": {"code": "out_of_memory", "message": "tried 2 GiB", "details": {"peak_bytes": 7}},
}
BAD_ROWS = {"status": "failed", "error": {"code": "bad_rows", "message": "row 3 has no text", "hint": "fix it"}}


def ended(**more: Any) -> ProcessOutcome:
    return ProcessOutcome(**{"result": None, "asked": None, "log_tail": "the end", "phase": "training", **more})


def outcome_of(process: ProcessOutcome, folder: Path, *, is_stopping: bool = False) -> Outcome:
    job = Job(spec=JobSpec.model_validate(spec()).model_dump(mode="json"), resolved=resolved().model_dump(mode="json"))
    return outcomes.of_process(process, job, hung_seconds=9, is_stopping=is_stopping, scratch=folder)


def code_of(outcome: Outcome) -> FailureCode:
    assert isinstance(outcome, Failed)
    return outcome.failure.code


@pytest.mark.parametrize(
    ("process", "verdict"),
    [
        (ended(result=REPORTED), True),
        (ended(killed_for_memory=True), True),
        (ended(log_tail="terminate called after throwing an instance of 'std::bad_alloc'"), True),
        (ended(), False),
        (ended(log_tail="Segmentation fault"), False),
        (ended(result=BAD_ROWS, killed_for_memory=True), False),
        (ended(result={"status": "stopped"}, killed_for_memory=True), False),
    ],
)
def test_only_a_counted_kill_or_its_own_words_make_it_out_of_memory(process: ProcessOutcome, verdict: bool) -> None:
    assert outcomes.ran_out_of_memory(process) is verdict


@pytest.mark.parametrize("reason", StopReason)
def test_a_process_that_was_asked_to_stop_is_stopped_whatever_it_reports(reason: StopReason, tmp_path: Path) -> None:
    assert outcome_of(ended(asked=reason, result=BAD_ROWS), tmp_path) == Stopped(reason)


def test_a_stop_that_reached_the_process_first_is_the_workers_stop(tmp_path: Path) -> None:
    stopped = Stopped(StopReason.WORKER_STOPPING)
    assert outcome_of(ended(result={"status": "stopped"}), tmp_path) == stopped
    assert outcome_of(ended(), tmp_path, is_stopping=True) == stopped
    assert code_of(outcome_of(ended(), tmp_path)) is FailureCode.TRAINING_PROCESS_DIED


def test_a_hung_process_says_for_how_long(tmp_path: Path) -> None:
    outcome = outcome_of(ended(asked=KillReason.HUNG), tmp_path)
    assert code_of(outcome) is FailureCode.TRAINING_HUNG
    assert isinstance(outcome, Failed)
    assert "for 9 s" in outcome.failure.message


def test_a_reported_failure_is_taken_as_it_is_with_the_end_of_the_output(tmp_path: Path) -> None:
    outcome = outcome_of(ended(result=BAD_ROWS), tmp_path)
    assert isinstance(outcome, Failed)
    assert outcome.failure.to_json() == {
        "code": "bad_rows",
        "message": "row 3 has no text",
        "hint": "fix it",
        "log_tail": "the end",
    }


def test_out_of_memory_brings_what_the_process_reported(tmp_path: Path) -> None:
    outcome = outcome_of(ended(result=REPORTED, peak_bytes=3), tmp_path)
    assert isinstance(outcome, OutOfMemory)
    assert (outcome.phase, outcome.peak_bytes, outcome.message) == ("training", 7, "tried 2 GiB")
    assert outcome.resolved == resolved()
    killed = outcome_of(ended(killed_for_memory=True, peak_bytes=3), tmp_path)
    assert isinstance(killed, OutOfMemory)
    assert (killed.peak_bytes, killed.message) == (3, None)


def test_a_process_that_died_on_a_full_disk_is_the_disks_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert code_of(outcome_of(ended(), tmp_path)) is FailureCode.DISK_FULL


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unpreparable("a dataset is gone"), "input_gone"),
        (StorageFull("no room"), "storage_full"),
        (StorageError("no answer"), "storage_unavailable"),
        (CheckpointBroken("model: the bytes of model.safetensors are not those of its manifest"), "checkpoint_broken"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EIO, "I/O error"), "internal_error"),
        (ValueError("surprise"), "internal_error"),
    ],
)
def test_an_error_of_the_worker_has_one_code(error: Exception, code: str) -> None:
    assert outcomes.of_error(error).failure.code == code
