"""What becomes of a job, as a table: each outcome with each history that matters."""

from dataclasses import replace
from itertools import product

import pytest
from attempts import (
    CANCELLED,
    PAUSED,
    PERMANENT,
    POSTPONED,
    RELEASED,
    RETRYABLE,
    TIMED_OUT,
    out_of_memory,
    resolved,
)

from app.failures import CATALOG, Counted, Failure, FailureCode
from app.jobs.decision import Counts, History, RetryPolicy, decide
from app.jobs.outcomes import DeadlinePassed, Failed, LeaseExpired, Outcome, Stopped, StopReason, Succeeded
from app.jobs.states import EDGES, JobStatus
from app.jobs.tables import Artifact

POLICY = RetryPolicy(max_failures=5, max_workers_lost=10, max_stalled=4, backoff_seconds=2)
FRESH = History(Counts())
MOVING = History(Counts(1, 1, 3), furthest_step=7, step_at_claim=5)
"""This attempt reached a new step."""
STALLED = History(Counts(1, 1, 3), furthest_step=5, step_at_claim=5)
"""One more attempt without a new step is a crash loop."""
LAST_FAILURE = History(Counts(4, 1, 0), furthest_step=7, step_at_claim=5)
LAST_WORKER = History(Counts(1, 9, 0), furthest_step=7, step_at_claim=5)
CHECKPOINT = Artifact(id="art_1")
SUCCEEDED = Succeeded(CHECKPOINT, {"eval_accuracy": 0.5})
AWAY = Stopped(StopReason.DATABASE_SILENT)
SHRINKS, CANNOT_SHRINK = out_of_memory(), out_of_memory(batch_size=16)
LOST = LeaseExpired(3)
OVERDUE_QUEUED, OVERDUE_RUNNING = DeadlinePassed(JobStatus.QUEUED), DeadlinePassed(JobStatus.RUNNING)


@pytest.mark.parametrize(
    ("outcome", "history", "edge", "counts", "code", "wait"),
    [
        (SUCCEEDED, FRESH, "succeed", (0, 0, 0), None, None),
        (SUCCEEDED, STALLED, "succeed", (1, 1, 3), None, None),
        (RETRYABLE, FRESH, "retry", (1, 0, 1), "training_process_died", 2),
        (RETRYABLE, MOVING, "retry", (2, 1, 0), "training_process_died", 4),
        (RETRYABLE, STALLED, "fail", (2, 1, 4), "training_process_died", None),
        (RETRYABLE, LAST_FAILURE, "fail", (5, 1, 0), "training_process_died", None),
        (RETRYABLE, LAST_WORKER, "retry", (2, 9, 0), "training_process_died", 4),
        (PERMANENT, FRESH, "fail", (1, 0, 1), "bad_rows", None),
        (PERMANENT, MOVING, "fail", (2, 1, 0), "bad_rows", None),
        (POSTPONED, FRESH, "postpone", (0, 0, 0), "storage_full", 60),
        (POSTPONED, STALLED, "postpone", (1, 1, 3), "storage_full", 60),
        (POSTPONED, LAST_FAILURE, "postpone", (4, 1, 0), "storage_full", 60),
        (SHRINKS, FRESH, "shrink", (0, 0, 0), "out_of_memory", None),
        (SHRINKS, STALLED, "shrink", (1, 1, 3), "out_of_memory", None),
        (SHRINKS, LAST_FAILURE, "shrink", (4, 1, 0), "out_of_memory", None),
        (CANNOT_SHRINK, FRESH, "fail", (1, 0, 1), "out_of_memory", None),
        (CANNOT_SHRINK, MOVING, "fail", (2, 1, 0), "out_of_memory", None),
        (CANCELLED, MOVING, "cancel_running", (1, 1, 3), None, None),
        (PAUSED, MOVING, "pause_running", (1, 1, 3), None, None),
        (RELEASED, STALLED, "release", (1, 1, 3), None, None),
        (AWAY, STALLED, "release_silent", (1, 1, 3), None, None),
        (TIMED_OUT, MOVING, "fail", (1, 1, 3), "timeout", None),
        (LOST, FRESH, "reclaim", (0, 1, 1), "worker_lost", None),
        (LOST, MOVING, "reclaim", (1, 2, 0), "worker_lost", None),
        (LOST, STALLED, "give_up", (1, 2, 4), "worker_lost", None),
        (LOST, LAST_FAILURE, "reclaim", (4, 2, 0), "worker_lost", None),
        (LOST, LAST_WORKER, "give_up", (1, 10, 0), "worker_lost", None),
        (OVERDUE_QUEUED, STALLED, "expire_queued", (1, 1, 3), "timeout", None),
        (OVERDUE_RUNNING, STALLED, "expire_running", (1, 1, 3), "timeout", None),
    ],
)
def test_without_requests(
    outcome: Outcome, history: History, edge: str, counts: tuple[int, int, int], code: str | None, wait: float | None
) -> None:
    transition = decide(outcome, history, POLICY)
    assert transition.edge == EDGES[edge]
    assert transition.counts == Counts(*counts)
    assert (transition.failure and transition.failure.code) == code
    assert transition.wait_seconds == wait
    assert transition.success is (outcome if outcome is SUCCEEDED else None)
    assert transition.resolved == (resolved(batch_size=8, gradient_accumulation=4) if edge == "shrink" else None)


WORKERS = [RETRYABLE, PERMANENT, POSTPONED, SHRINKS, CANNOT_SHRINK, CANCELLED, PAUSED, RELEASED, AWAY, TIMED_OUT]
SWEEPERS = [LOST, OVERDUE_RUNNING]
HISTORIES = [FRESH, MOVING, STALLED, LAST_FAILURE, LAST_WORKER]


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize(("outcome", "history"), product([*WORKERS, *SWEEPERS], HISTORIES))
def test_a_cancel_beats_everything_but_success_and_keeps_counts_and_failure(
    outcome: Outcome, history: History, pause: bool
) -> None:
    alone = decide(outcome, history, POLICY)
    transition = decide(outcome, replace(history, cancel_requested=True, pause_requested=pause), POLICY)
    edge = EDGES["reclaim_cancelled" if outcome in SWEEPERS else "cancel_running"]
    assert transition == replace(alone, edge=edge, wait_seconds=None)


@pytest.mark.parametrize(("outcome", "history"), product([*WORKERS, *SWEEPERS], HISTORIES))
def test_a_pause_beats_the_queue_and_nothing_else(outcome: Outcome, history: History) -> None:
    alone = decide(outcome, history, POLICY)
    transition = decide(outcome, replace(history, pause_requested=True), POLICY)
    edge = EDGES["reclaim_paused" if outcome in SWEEPERS else "pause_running"]
    queued = alone.edge.target == JobStatus.QUEUED
    assert transition == (replace(alone, edge=edge, wait_seconds=None) if queued else alone)


@pytest.mark.parametrize("history", HISTORIES)
def test_success_and_the_deadline_of_a_queued_job_stand_whatever_is_requested(history: History) -> None:
    requested = replace(history, cancel_requested=True, pause_requested=True)
    for outcome in (SUCCEEDED, OVERDUE_QUEUED):
        assert decide(outcome, requested, POLICY) == decide(outcome, history, POLICY)


def test_the_wait_doubles_up_to_a_minute() -> None:
    policy = replace(POLICY, max_failures=99)
    waits = [decide(RETRYABLE, History(Counts(failures), 1), policy).wait_seconds for failures in range(8)]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("code", FailureCode)
def test_every_code_of_the_catalog_does_what_the_catalog_says(code: FailureCode) -> None:
    kind = CATALOG[code]
    transition = decide(Failed(Failure.of(code, "x")), FRESH, POLICY)
    if kind.counted is Counted.POSTPONED:
        assert (transition.edge, transition.counts) == (EDGES["postpone"], Counts())
    elif kind.counted is Counted.ATTEMPT:
        expected = "retry" if kind.retryable else "fail"
        assert (transition.edge, transition.counts) == (EDGES[expected], Counts(failures=1, stalled=1))


def test_an_attempt_is_taken_by_an_edge_that_leaves_its_state() -> None:
    for outcome, history in product([SUCCEEDED, *WORKERS, *SWEEPERS], HISTORIES):
        edge = decide(outcome, history, POLICY).edge
        assert (edge.source, edge.actor) == (JobStatus.RUNNING, "sweeper" if outcome in SWEEPERS else "worker")
