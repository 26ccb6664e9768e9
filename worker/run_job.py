"""One job, top to bottom: claim → prepare → supervise → publish → conclude."""

import logging
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from app.db import DATABASE_AWAY
from app.failures import FailureCode
from app.jobs import lifecycle
from app.jobs.decision import Transition
from app.jobs.lifecycle import Lease, LostLease
from app.jobs.outcomes import Failed, Outcome, Succeeded
from app.jobs.tables import Job
from app.workspaces import workspace
from worker import outcomes
from worker.artifacts import store_artifact
from worker.context import WorkerContext
from worker.heartbeat import Heartbeat
from worker.prepare import prepare
from worker.supervise import Assignment, supervise

log = logging.getLogger(__name__)

PREPARE_RETRY_SECONDS = 0.5
CONCLUDE_RETRY_SECONDS = 2.0


def run_next(context: WorkerContext) -> bool:
    """Claim the best queued job and run this attempt to its end. False if there was no job.

    Raises OSError if this machine has no usable scratch space. Then no job was claimed.
    """
    # The workspace comes before the claim: a worker without one must not take jobs away from other workers.
    with workspace(context.workspaces) as folder:
        job, gpu = context.gpus.claim(context.queues, partial(_claim, context))
        if job is None:
            return False
        try:
            _run(context, job, folder, gpu)
        finally:
            context.gpus.give_back(gpu)
        return True


def _claim(context: WorkerContext, queues: Sequence[str]) -> Job | None:
    features = context.offer.features()
    with context.database.write() as session:
        return lifecycle.claim(session, context.worker_id, queues, context.settings.lease_seconds, features)


def _run(context: WorkerContext, job: Job, folder: Path, gpu: str | None) -> None:
    lease = Lease(job.id, job.attempt, context.worker_id)
    log.info("job %s: attempt %s begins", job.id, job.attempt)
    try:
        with _heartbeat(context, lease) as heartbeat:
            outcome = _attempt(context, job, lease, heartbeat, folder, gpu)
            _rest_if_disk_is_full(context, outcome)
            transition = _conclude(context, lease, heartbeat, outcome)
        log.info("job %s: attempt %s is over, the job is %s", job.id, job.attempt, transition.edge.target)
    except LostLease:
        log.warning("job %s: attempt %s is no longer ours; nothing was published", job.id, job.attempt)


def _heartbeat(context: WorkerContext, lease: Lease) -> Heartbeat:
    return Heartbeat(
        context.database,
        lease,
        every=context.settings.heartbeat_seconds,
        lease_seconds=context.settings.lease_seconds,
    )


def _attempt(
    context: WorkerContext, job: Job, lease: Lease, heartbeat: Heartbeat, folder: Path, gpu: str | None
) -> Outcome:
    try:
        assignment = _prepared(context, job, heartbeat, folder, gpu)
        process = supervise(context, lease, heartbeat, assignment)
        result = process.result or {}
        if result.get("status") == "succeeded":
            model = store_artifact(context.storage, lease, assignment.out_dir / result["model_path"], "model", result)
            return Succeeded(model, result.get("metrics") or {})
        return outcomes.of_process(
            process,
            job,
            hung_seconds=context.settings.hung_seconds,
            is_stopping=context.stopping.is_set(),
            scratch=context.workspaces,
        )
    except LostLease:
        raise
    except Exception as error:
        outcome = outcomes.of_error(error)
        level = logging.ERROR if outcome.failure.code is FailureCode.INTERNAL_ERROR else logging.WARNING
        log.log(level, "job %s: attempt %s ends with an error", lease.job_id, lease.attempt, exc_info=error)
        return outcome


def _prepared(context: WorkerContext, job: Job, heartbeat: Heartbeat, folder: Path, gpu: str | None) -> Assignment:
    """What the training process needs. It is tried again while the database does not answer and the lease holds."""
    while True:
        try:
            return prepare(context, job, folder, gpu)
        except DATABASE_AWAY as error:
            log.warning("job %s: its start waits, the database does not answer: %s", job.id, error)
            if heartbeat.lost.wait(PREPARE_RETRY_SECONDS):
                raise LostLease from error
            if context.stopping.is_set():
                raise
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _rest_if_disk_is_full(context: WorkerContext, outcome: Outcome) -> None:
    # Workers whose disks have space take the jobs meanwhile.
    if isinstance(outcome, Failed) and outcome.failure.code is FailureCode.DISK_FULL:
        context.rest.begin(context.policy.postponed_seconds)


def _conclude(context: WorkerContext, lease: Lease, heartbeat: Heartbeat, outcome: Outcome) -> Transition:
    """The last write of an attempt.

    It is tried again while the database is unreachable, and the lease is renewed meanwhile. A commit whose outcome is
    unknown needs no special care: if it took effect, the guard of the next try matches nothing. A worker that is
    stopping waits no longer than its grace period.
    """
    heartbeat.expect_the_end()
    asked_to_stop_at = None
    while True:
        try:
            with context.database.write() as session:
                transition = lifecycle.conclude(session, lease, outcome, context.policy)
        except DATABASE_AWAY as error:
            log.warning("job %s: its end waits, the database does not answer: %s", lease.job_id, error)
            if context.stopping.is_set():
                asked_to_stop_at = asked_to_stop_at or time.monotonic()
            grace_is_over = (
                asked_to_stop_at and time.monotonic() - asked_to_stop_at > context.settings.stop_grace_seconds
            )
            if heartbeat.lost.wait(CONCLUDE_RETRY_SECONDS) or grace_is_over:
                raise LostLease from error
        else:
            if failure := transition.failure:
                log.warning(
                    "job %s: attempt %s failed (%s: %s)", lease.job_id, lease.attempt, failure.code, failure.message
                )
            return transition
