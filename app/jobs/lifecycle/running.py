"""What the owner of a running job writes. Every guard holds status, attempt and owner, or LostLease is raised."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import case, false, insert, select, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.lifecycle.lease import Intents, Lease, Limits, LostLease
from app.jobs.lifecycle.moves import append, move, requeue, storable
from app.jobs.states import JobStatus
from app.jobs.tables import Artifact, Job, LogChunk

LONGEST_BACKOFF_SECONDS = 60.0


def renew(session: Session, lease: Lease, lease_seconds: float) -> Intents:
    """Keep the lease for another `lease_seconds` and learn what people want. Raises LostLease."""
    return _guarded(session, lease, {"lease_expires_at": now() + lease_seconds})[0]


def look(session: Session, lease: Lease) -> Intents:
    """Learn what people want without writing. Raises LostLease."""
    row = session.execute(select(Job.cancel_requested_at, Job.pause_requested_at).where(*lease.guard())).one_or_none()
    if row is None:
        raise LostLease
    return Intents(row.cancel_requested_at is not None, row.pause_requested_at is not None)


def record(
    session: Session,
    lease: Lease,
    events: Iterable[tuple[str, dict[str, Any]]],
    read_to: int | None = None,
    **columns: Any,
) -> None:
    """Append (type, data) events and set display columns of a running job. Raises LostLease.

    `columns` may be phase, progress, metrics, resolved and preflight. `read_to` is how far, in bytes, this attempt's reports have been
    read: what was recorded up to there is not recorded again, for the outcome of an earlier commit may have been unknown.
    """
    if unknown := columns.keys() - {"phase", "progress", "metrics", "resolved", "preflight"}:
        raise TypeError(f"record does not write {', '.join(unknown)}")
    entries = list(events)
    values = {**columns, "event_seq": Job.event_seq + len(entries)}
    if read_to is not None:
        if session.scalar(select(Job.reports_read).where(*lease.guard(), Job.reports_read >= read_to)) is not None:
            return
        values["reports_read"] = read_to
    if progress := columns.get("progress"):
        step = int(progress["step"])
        values["furthest_step"] = case((Job.furthest_step < step, step), else_=Job.furthest_step)
    if (resolved := columns.get("resolved")) and resolved.get("device") == "cuda":
        # What was settled on a GPU can only go on on one.
        values["queue"] = "gpu"
    _, seq = _guarded(session, lease, values)
    append(session, lease.job_id, seq - len(entries) + 1, lease.attempt, entries)


def log(session: Session, lease: Lease, start: int, text: str) -> None:
    """Keep a piece of the training process's output; `start` is its offset in bytes. Raises LostLease.

    Keeping the same piece again changes nothing: the outcome of an earlier commit may have been unknown.
    """
    _guarded(session, lease, {"owner": lease.owner})
    if session.get(LogChunk, (lease.job_id, lease.attempt, start)) is not None:
        return
    session.execute(
        insert(LogChunk).values(job_id=lease.job_id, attempt=lease.attempt, start=start, text=storable(text))
    )


def checkpoint(session: Session, lease: Lease, artifact: Artifact, best_step: int | None) -> None:
    """Record a checkpoint whose manifest is in storage, and which step is now the best. Raises LostLease.

    Recording the same one again changes nothing: the outcome of an earlier commit may have been unknown.
    """
    artifact.is_best = artifact.step == best_step
    known = select(Artifact.id).where(
        Artifact.job_id == lease.job_id, Artifact.attempt == lease.attempt, Artifact.kind == "checkpoint",
        Artifact.step == artifact.step,
    )  # fmt: skip
    if session.scalar(known) is not None:
        look(session, lease)
        return
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
    _leave(session, lease, "succeed", artifact_id=artifact.id, metrics=metrics, error=None)
    session.add(artifact)
    session.flush()


def fail(session: Session, lease: Lease, error: dict[str, Any], *, retryable: bool, limits: Limits) -> JobStatus:
    """End a failed attempt: back to the queue with a wait, or, permanent or exhausted, for good. Raises LostLease.

    Returns the status the job now has. A cancel that was asked for beats everything, a pause beats a retry.
    """
    row = session.execute(
        select(Job.failures, Job.stalled, Job.furthest_step, Job.step_at_claim).where(*lease.guard())
    ).one_or_none()
    if row is None:
        raise LostLease
    failures = row.failures + 1
    stalled = 0 if row.furthest_step > row.step_at_claim else row.stalled + 1
    counts = {"error": error, "failures": failures, "stalled": stalled}
    if not retryable or failures >= limits.max_failures or stalled >= limits.max_stalled:
        if not move(
            session, "cancel_running", lease.job_id, [*lease.guard(), Job.cancel_requested_at.is_not(None)], **counts
        ):
            _leave(session, lease, "fail", **counts)
    else:
        wait = min(limits.backoff_seconds * 2 ** (failures - 1), LONGEST_BACKOFF_SECONDS)
        _requeue(session, lease, "retry", available_at=now() + wait, **counts)
    return _status(session, lease)


def shrink(session: Session, lease: Lease, error: dict[str, Any], resolved: dict[str, Any]) -> JobStatus:
    """Give back a job that ran out of memory, settled anew with smaller batches. Raises LostLease.

    Nothing is counted: a batch can be halved only so often.
    """
    _requeue(session, lease, "shrink", error=error, resolved=resolved)
    return _status(session, lease)


def postpone(session: Session, lease: Lease, error: dict[str, Any], wait: float) -> JobStatus:
    """Give back a job for `wait` seconds because of what is no fault of its own, such as a full disk. Raises LostLease.

    Nothing is counted: the deadline alone bounds it.
    """
    _requeue(session, lease, "postpone", error=error, available_at=now() + wait)
    return _status(session, lease)


def time_out(session: Session, lease: Lease) -> None:
    """Fail a job that ran past its deadline. The training process is dead. Raises LostLease."""
    _leave(session, lease, "fail", error=timeout_error())


def release(session: Session, lease: Lease, *, was_silent: bool = False) -> JobStatus:
    """Give the job back because the worker stops, or the database was away for too long; nothing is counted.

    The training process is dead. Raises LostLease.
    """
    _requeue(session, lease, "release_silent" if was_silent else "release")
    return _status(session, lease)


def finish_cancel(session: Session, lease: Lease) -> None:
    """End a running job that was asked to cancel. The training process is dead. Raises LostLease."""
    _leave(session, lease, "cancel_running")


def finish_pause(session: Session, lease: Lease) -> None:
    """Pause a running job that was asked to. The training process is dead, its checkpoint kept. Raises LostLease."""
    _leave(session, lease, "pause_running", paused_at=now(), pause_requested_at=None)


def timeout_error() -> dict[str, Any]:
    """What a job that ran past `resources.timeout` is told."""
    return {
        "code": "timeout",
        "message": "The job ran longer than resources.timeout allows.",
        "hint": "Raise resources.timeout, or train for fewer epochs. Checkpoints saved so far can be downloaded.",
    }


def _status(session: Session, lease: Lease) -> JobStatus:
    return JobStatus(session.scalars(select(Job.status).where(Job.id == lease.job_id)).one())


def _requeue(session: Session, lease: Lease, name: str, **values: Any) -> None:
    if not requeue(session, name, lease.job_id, lease.guard(), **values):
        raise LostLease


def _leave(session: Session, lease: Lease, name: str, **values: Any) -> None:
    if not move(session, name, lease.job_id, lease.guard(), **values):
        raise LostLease


def _guarded(session: Session, lease: Lease, values: dict[str, Any]) -> tuple[Intents, int]:
    row = session.execute(
        update(Job)
        .where(*lease.guard())
        .values(**{name: storable(value) for name, value in values.items()})
        .returning(Job.event_seq, Job.cancel_requested_at, Job.pause_requested_at)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LostLease
    return Intents(row.cancel_requested_at is not None, row.pause_requested_at is not None), row.event_seq
