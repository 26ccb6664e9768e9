"""What the owner of a running job writes. Every guard holds status, attempt and owner, or LostLease is raised."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import case, false, insert, select, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs import events
from app.jobs.decision import RetryPolicy, Transition
from app.jobs.events import Entry
from app.jobs.lifecycle import transitions
from app.jobs.lifecycle.lease import Lease, LostLease, Requests
from app.jobs.lifecycle.transitions import append
from app.jobs.outcomes import Outcome
from app.jobs.sanitized import sanitized
from app.jobs.tables import Artifact, Job, LogChunk


def renew(session: Session, lease: Lease, lease_seconds: float) -> Requests:
    """Keep the lease for another `lease_seconds` and learn what users requested. Raises LostLease."""
    return _guarded(session, lease, {"lease_expires_at": now() + lease_seconds})[0]


def look(session: Session, lease: Lease) -> Requests:
    """Learn what users requested, without writing. Raises LostLease."""
    row = session.execute(select(Job.cancel_requested_at, Job.pause_requested_at).where(*lease.guard())).one_or_none()
    if row is None:
        raise LostLease
    return Requests(row.cancel_requested_at is not None, row.pause_requested_at is not None)


def record(
    session: Session,
    lease: Lease,
    entries: Iterable[Entry],
    read_to: int | None = None,
    **columns: Any,
) -> None:
    """Append events and set display columns of a running job. Raises LostLease.

    `columns` may be phase, progress, metrics, resolved and preflight. `read_to` is how far, in bytes, this attempt's reports have been
    read: what was recorded up to there is not recorded again, for the outcome of an earlier commit may have been unknown.
    """
    if unknown := columns.keys() - {"phase", "progress", "metrics", "resolved", "preflight"}:
        raise TypeError(f"record does not write {', '.join(unknown)}")
    appended = list(entries)
    values = {**columns, "event_seq": Job.event_seq + len(appended)}
    if read_to is not None:
        if session.scalar(select(Job.reports_read).where(*lease.guard(), Job.reports_read >= read_to)) is not None:
            return
        values["reports_read"] = read_to
    if progress := columns.get("progress"):
        step = int(progress["step"])
        values["furthest_step"] = case((Job.furthest_step < step, step), else_=Job.furthest_step)
    if (resolved := columns.get("resolved")) and resolved.get("device") == "cuda":
        # What was resolved on a GPU can only continue on one.
        values["queue"] = "gpu"
        # They changed with the queue; the next claim computes them.
        values["needs"] = None
    _, seq = _guarded(session, lease, values)
    append(session, lease.job_id, seq - len(appended) + 1, lease.attempt, appended)


def log(session: Session, lease: Lease, start: int, text: str) -> None:
    """Keep a piece of the training process's output; `start` is its offset in bytes. Raises LostLease.

    Keeping the same piece again changes nothing: the outcome of an earlier commit may have been unknown.
    """
    _guarded(session, lease, {"owner": lease.owner})
    if session.get(LogChunk, (lease.job_id, lease.attempt, start)) is not None:
        return
    session.execute(
        insert(LogChunk).values(job_id=lease.job_id, attempt=lease.attempt, start=start, text=sanitized(text))
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
    added = events.checkpoint(
        step=artifact.step, epoch=artifact.epoch, metrics=artifact.metrics, is_best=artifact.is_best
    )
    record(session, lease, [added])
    # The best may also be an older step now: a resumed run can evaluate a step that was saved before.
    session.execute(
        update(Artifact)
        .where(Artifact.job_id == artifact.job_id, Artifact.kind == "checkpoint")
        .values(is_best=false() if best_step is None else Artifact.step == best_step)
    )
    session.add(artifact)
    session.flush()


def conclude(session: Session, lease: Lease, outcome: Outcome, policy: RetryPolicy) -> Transition:
    """End the attempt: write what becomes of the job, and publish the model if there is one. Raises LostLease.

    The training process is dead.
    """
    transition = transitions.conclude(session, lease.job_id, lease.guard(), outcome, policy)
    if transition is None:
        raise LostLease
    if transition.success is not None:
        session.add(transition.success.artifact)
        session.flush()
    return transition


def _guarded(session: Session, lease: Lease, values: dict[str, Any]) -> tuple[Requests, int]:
    row = session.execute(
        update(Job)
        .where(*lease.guard())
        .values(**{name: sanitized(value) for name, value in values.items()})
        .returning(Job.event_seq, Job.cancel_requested_at, Job.pause_requested_at)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LostLease
    return Requests(row.cancel_requested_at is not None, row.pause_requested_at is not None), row.event_seq
