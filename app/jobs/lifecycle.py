"""The life of a job: the only module that writes `status` and `attempt`.

Every function takes a write session and leaves the commit to its caller. Each transition is one
UPDATE whose WHERE holds its guard; a guard that matches no row raises `LostLease` (a worker's) or
returns False (anybody else's). The event that records it is part of the same transaction.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, false, insert, select, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.states import TERMINAL, TRANSITIONS, JobStatus
from app.jobs.tables import Artifact, Event, Job, LogChunk
from app.specs import JobSpec
from app.specs.durations import seconds

LONGEST_BACKOFF_SECONDS = 60.0


class LostLease(Exception):
    """This job is no longer this worker's: stop, kill the training process, publish nothing."""


@dataclass(frozen=True)
class Lease:
    """The right to write about one attempt of one job."""

    job_id: str
    attempt: int
    owner: str

    def guard(self) -> tuple[ColumnElement[bool], ...]:
        """The WHERE of everything that the owner writes."""
        return (
            Job.id == self.job_id,
            Job.status == JobStatus.RUNNING,
            Job.attempt == self.attempt,
            Job.owner == self.owner,
        )


@dataclass(frozen=True)
class Intents:
    """What people want of a running job."""

    cancel: bool


@dataclass(frozen=True)
class Limits:
    """When retrying ends."""

    max_failures: int
    max_workers_lost: int
    backoff_seconds: float


def submit(session: Session, job: Job) -> None:
    """Add a queued job and its first event. The caller adds the idempotency row to the same transaction."""
    job.event_seq = 1
    session.add(job)
    session.flush()
    _append(session, job.id, 1, 0, [_status_event(None, JobStatus.QUEUED, "user", "submitted")])


def claim(session: Session, owner: str, queues: Sequence[str], lease_seconds: float) -> Job | None:
    """Take the best queued job of these queues, or None. It is the caller's for `lease_seconds`."""
    move = TRANSITIONS["claim"]
    best = (
        select(Job.id)
        .where(
            Job.status == move.source,
            Job.queue.in_(queues),
            Job.available_at <= now(),
            Job.cancel_requested_at.is_(None),
        )
        .order_by(Job.priority.desc(), Job.queued_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    claimed = session.execute(
        update(Job)
        .where(Job.id == best, Job.status == move.source)
        .values(
            status=move.target,
            phase="preparing",
            attempt=Job.attempt + 1,
            owner=owner,
            lease_expires_at=now() + lease_seconds,
            started_at=now(),
            event_seq=Job.event_seq + 1,
        )
        .returning(Job.id, Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if claimed is None:
        return None
    job_id, seq, attempt = claimed
    event = _status_event(move.source, move.target, move.actor, move.reason, owner=owner)
    _append(session, job_id, seq, attempt, [event])
    job = session.get_one(Job, job_id)
    if job.deadline_at is None:
        timeout = seconds(JobSpec.model_validate(job.spec).resources.timeout)
        session.execute(update(Job).where(Job.id == job_id).values(deadline_at=now() + timeout))
    session.refresh(job)
    return job


def renew(session: Session, lease: Lease, lease_seconds: float) -> Intents:
    """Keep the lease for another `lease_seconds` and learn what people want. Raises LostLease."""
    return _guarded(session, lease, {"lease_expires_at": now() + lease_seconds})[0]


def record(session: Session, lease: Lease, events: Iterable[tuple[str, dict[str, Any]]], **columns: Any) -> Intents:
    """Append (type, data) events and set display columns of a running job. Raises LostLease.

    `columns` may be phase, progress, metrics and resolved.
    """
    if unknown := columns.keys() - {"phase", "progress", "metrics", "resolved"}:
        raise TypeError(f"record does not write {', '.join(unknown)}")
    entries = list(events)
    intents, seq = _guarded(session, lease, {**columns, "event_seq": Job.event_seq + len(entries)})
    _append(session, lease.job_id, seq - len(entries) + 1, lease.attempt, entries)
    return intents


def log(session: Session, lease: Lease, start: int, text: str) -> None:
    """Keep a piece of the training process's output; `start` is its offset in bytes. Raises LostLease."""
    _guarded(session, lease, {"owner": lease.owner})
    session.execute(
        insert(LogChunk).values(
            job_id=lease.job_id, attempt=lease.attempt, start=start, text=text.replace("\0", "\ufffd")
        )
    )


def checkpoint(session: Session, lease: Lease, artifact: Artifact, best_step: int | None) -> None:
    """Record a checkpoint whose manifest is in storage, and which step is now the best. Raises LostLease."""
    artifact.is_best = artifact.step == best_step
    data = {"step": artifact.step, "epoch": artifact.epoch, "metrics": artifact.metrics, "is_best": artifact.is_best}
    record(session, lease, [("checkpoint", data)])
    # The best may have moved to an older step too: a resumed run can judge a step that was saved before.
    session.execute(
        update(Artifact)
        .where(Artifact.job_id == artifact.job_id, Artifact.kind == "checkpoint")
        .values(is_best=false() if best_step is None else Artifact.step == best_step)
    )
    session.add(artifact)
    session.flush()


def succeed(session: Session, lease: Lease, artifact: Artifact, metrics: dict[str, Any]) -> None:
    """Publish the model and finish. The manifest has been verified in storage. Raises LostLease."""
    session.add(artifact)
    session.flush()
    _leave(session, lease, "succeed", artifact_id=artifact.id, metrics=metrics, error=None)


def fail(session: Session, lease: Lease, error: dict[str, Any], *, retryable: bool, limits: Limits) -> JobStatus:
    """End a failed attempt: back to the queue with a wait, or, permanent or exhausted, for good. Raises LostLease.

    Returns the status the job now has. A cancel that was asked for beats a retry.
    """
    row = session.execute(select(Job.failures, Job.cancel_requested_at).where(*lease.guard())).one_or_none()
    if row is None:
        raise LostLease
    failures = row.failures + 1
    if row.cancel_requested_at is not None:
        _leave(session, lease, "cancel_running", error=error, failures=failures)
        return JobStatus.CANCELLED
    if not retryable or failures >= limits.max_failures:
        _leave(session, lease, "fail", error=error, failures=failures)
        return JobStatus.FAILED
    wait = min(limits.backoff_seconds * 2 ** (failures - 1), LONGEST_BACKOFF_SECONDS)
    _leave(session, lease, "retry", error=error, failures=failures, available_at=now() + wait)
    return JobStatus.QUEUED


def release(session: Session, lease: Lease) -> None:
    """Give the job back because the worker stops; nothing is counted. The training process is dead. Raises LostLease."""
    _leave(session, lease, "release")


def finish_cancel(session: Session, lease: Lease) -> None:
    """End a running job that was asked to cancel. The training process is dead. Raises LostLease."""
    _leave(session, lease, "cancel_running")


def cancel(session: Session, job_id: str) -> bool:
    """Cancel a queued job at once, or ask a running one to stop. False when it has already ended."""
    if _move(session, "cancel_queued", job_id, [], cancel_requested_at=now()):
        return True
    asked = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.RUNNING, Job.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now(), event_seq=Job.event_seq + 1)
        .returning(Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if asked is not None:
        _append(session, job_id, asked.event_seq, asked.attempt, [("intent", {"intent": "cancel", "actor": "user"})])
        return True
    status = session.scalar(select(Job.status).where(Job.id == job_id))
    return status not in TERMINAL


def reclaim(session: Session, job: Row[str, int, int, float | None], limits: Limits) -> bool:
    """Take a job from a worker whose lease ran out. `job` has id, attempt, workers_lost, cancel_requested_at.

    False when somebody else was quicker, or the worker came back.
    """
    guard = [Job.attempt == job.attempt, Job.lease_expires_at < now()]
    if job.cancel_requested_at is not None:
        return _move(session, "reclaim_cancelled", job.id, guard)
    lost = job.workers_lost + 1
    error = {
        "code": "worker_lost",
        "message": f"The worker of attempt {job.attempt} fell silent.",
        "hint": "The next attempt goes on from the newest checkpoint. See the workers' own logs for why it died.",
    }
    if lost >= limits.max_workers_lost:
        return _move(session, "give_up", job.id, guard, workers_lost=lost, error=error)
    return _move(session, "reclaim", job.id, guard, workers_lost=lost, error=error)


def expire(session: Session, job_id: str) -> bool:
    """Fail a queued job whose deadline passed between attempts."""
    return _move(session, "expire_queued", job_id, [Job.deadline_at < now()], error=timeout_error())


def timeout_error() -> dict[str, Any]:
    """What a job that ran past `resources.timeout` is told."""
    return {
        "code": "timeout",
        "message": "The job ran longer than resources.timeout allows.",
        "hint": "Raise resources.timeout, or train for fewer epochs. Checkpoints saved so far can be downloaded.",
    }


def _leave(session: Session, lease: Lease, name: str, **values: Any) -> None:
    if not _move(session, name, lease.job_id, lease.guard(), **values):
        raise LostLease


def _move(session: Session, name: str, job_id: str, guard: Sequence[ColumnElement[bool]], **values: Any) -> bool:
    move = TRANSITIONS[name]
    ends = move.target in TERMINAL
    moved = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == move.source, *guard)
        .values(
            status=move.target,
            phase=None,
            owner=None,
            lease_expires_at=None,
            event_seq=Job.event_seq + 1,
            **({"finished_at": now()} if ends else {}),
            **values,
        )
        .returning(Job.event_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if moved is None:
        return False
    extra = {"error": values["error"]} if values.get("error") else {}
    _append(
        session,
        job_id,
        moved.event_seq,
        moved.attempt,
        [_status_event(move.source, move.target, move.actor, move.reason, **extra)],
    )
    return True


def _guarded(session: Session, lease: Lease, values: dict[str, Any]) -> tuple[Intents, int]:
    row = session.execute(
        update(Job)
        .where(*lease.guard())
        .values(**values)
        .returning(Job.event_seq, Job.cancel_requested_at)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LostLease
    return Intents(cancel=row.cancel_requested_at is not None), row.event_seq


def _status_event(
    source: JobStatus | None, target: JobStatus, actor: str, reason: str, **more: Any
) -> tuple[str, dict[str, Any]]:
    return "status", {"from": source, "to": target, "actor": actor, "reason": reason, **more}


def _append(
    session: Session, job_id: str, first: int, attempt: int, events: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    if events:
        session.execute(
            insert(Event),
            [
                {"job_id": job_id, "seq": first + offset, "type": kind, "attempt": attempt, "data": data}
                for offset, (kind, data) in enumerate(events)
            ],
        )
