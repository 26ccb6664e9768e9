"""A repeated request creates no second job.

It is recognized by its Idempotency-Key, or by its body if the client marked it as a retry.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import Database, now
from app.errors import Conflict, InvalidRequest
from app.jobs import submission
from app.jobs.submission import CheckedSpec
from app.jobs.tables import IdempotencyKey, Job

RETRIED_WITHIN_SECONDS = 600.0
"""How long after a job was created the same body, marked by the client as a retry, refers to that job."""


@dataclass(frozen=True)
class Request:
    """What identifies a request for a new job."""

    project_id: str
    body_sha256: str
    key: str | None
    """Its Idempotency-Key."""
    is_retry: bool
    """Whether the client marked the request as a retry."""


def body_sha256(body: Any) -> str:
    """The hash of a JSON body, whatever the order of its fields."""
    return sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def earlier_job(database: Database, request: Request) -> Job | None:
    """The job that this request has already created.

    Raises InvalidRequest if its key was used with another body, and Conflict if the job was deleted.
    """
    if request.key is None and not request.is_retry:
        return None
    with database.read() as session:
        return _recent_job(session, request) if request.key is None else _job_of_key(session, request)


def create(database: Database, request: Request, checked: CheckedSpec) -> tuple[Job, bool]:
    """Create the job of a checked spec, unless a request with the same key was first.

    Returns the job and whether it is new. Raises InvalidRequest if a dataset was deleted since the check, or if the key
    was used with another body.
    """
    job = checked.job(request.project_id, body_sha256=request.body_sha256)
    try:
        with database.write() as session:
            submission.create(session, checked, job)
            if request.key is not None:
                session.add(
                    IdempotencyKey(
                        project_id=request.project_id,
                        key=request.key,
                        body_sha256=request.body_sha256,
                        job_id=job.id,
                    )
                )
    except IntegrityError:
        # Another request with the same key arrived at the same time and was first.
        if (earlier := earlier_job(database, request)) is None:
            raise
        return earlier, False
    return job, True


def _job_of_key(session: Session, request: Request) -> Job | None:
    row = session.execute(
        select(IdempotencyKey.body_sha256, Job)
        .join(Job, Job.id == IdempotencyKey.job_id)
        .where(IdempotencyKey.project_id == request.project_id, IdempotencyKey.key == request.key)
    ).one_or_none()
    if row is None:
        return None
    known_hash, job = row
    if known_hash != request.body_sha256:
        message = f"this Idempotency-Key created job {job.id} from another body; use a new key for a new job"
        raise InvalidRequest(message, param="idempotency-key", code="idempotency_key_reused")
    if job.deleted_at is not None:
        message = f"this Idempotency-Key created job {job.id}, which was deleted; use a new key for a new job"
        raise Conflict(message, code="job_deleted")
    return job


def _recent_job(session: Session, request: Request) -> Job | None:
    return session.scalar(
        select(Job)
        .where(
            Job.project_id == request.project_id,
            Job.body_sha256 == request.body_sha256,
            Job.parent_id.is_(None),
            Job.deleted_at.is_(None),
            Job.created_at > now() - RETRIED_WITHIN_SECONDS,
        )
        .order_by(Job.id)
        .limit(1)
    )
