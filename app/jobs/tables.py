"""The tables. Times are seconds since 1970 by the database's clock (see docs/decisions/0006-clock.md)."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.db import db_now
from app.jobs.states import JobStatus

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    """Names every constraint, so that Alembic can alter it on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read once by SQLAlchemy
        dict[str, Any]: Json,
        list[dict[str, Any]]: Json,
        list[str]: Json,
        float: Double[float](),
    }


class Project(Base):
    """The owner of everything else."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[float] = mapped_column(insert_default=db_now())


class ApiKey(Base):
    """A key's hash; the key itself is shown once and never stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    key_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    revoked_at: Mapped[float | None]


class Dataset(Base):
    """One uploaded file, or several of the same columns, inspected and kept as Parquet."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str | None] = mapped_column(String(200))
    filename: Mapped[str] = mapped_column(String(255))
    """The first file's, like `source_path`; all are in `files`."""
    format: Mapped[str] = mapped_column(String(20))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[list[dict[str, Any]]]
    files: Mapped[list[dict[str, Any]] | None]
    """Name, format, bytes, sha256, rows and path of each; None for one file of a service before 0005."""
    source_path: Mapped[str] = mapped_column(String(500))
    parquet_path: Mapped[str] = mapped_column(String(500))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    deleted_at: Mapped[float | None]


class Job(Base):
    """One fine-tuning job. Only `app.jobs.lifecycle` writes `status` and `attempt`."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status IN ({})".format(", ".join(f"'{status}'" for status in JobStatus)), name="status"),
        Index("ix_jobs_queue", "status", "priority", "queued_at"),
        Index("ix_jobs_project_id_id", "project_id", "id"),
        Index("ix_jobs_project_id_body_sha256", "project_id", "body_sha256"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str | None] = mapped_column(String(200))
    task: Mapped[str] = mapped_column(String(50))
    user_metadata: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(Integer)
    queue: Mapped[str] = mapped_column(String(20))
    engine: Mapped[str] = mapped_column(String(20), insert_default="trainer", server_default="trainer")
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    start_artifact_id: Mapped[str | None] = mapped_column(String(40))
    """A checkpoint of an earlier job that the first attempt goes on from."""
    features: Mapped[list[str] | None]
    """What a worker must know to run it (`app.specs.features`); None for a job of a service before 0007."""
    body_sha256: Mapped[str] = mapped_column(String(64))
    spec: Mapped[dict[str, Any]]
    resolved: Mapped[dict[str, Any] | None]
    preflight: Mapped[dict[str, Any] | None]

    status: Mapped[str] = mapped_column(String(20), insert_default=JobStatus.QUEUED)
    phase: Mapped[str | None] = mapped_column(String(20))
    attempt: Mapped[int] = mapped_column(Integer, insert_default=0)
    owner: Mapped[str | None] = mapped_column(String(40))
    lease_expires_at: Mapped[float | None]
    queued_at: Mapped[float] = mapped_column(insert_default=db_now())
    available_at: Mapped[float] = mapped_column(insert_default=db_now())
    timeout_seconds: Mapped[int] = mapped_column(Integer)
    deadline_at: Mapped[float | None]
    failures: Mapped[int] = mapped_column(Integer, insert_default=0)
    workers_lost: Mapped[int] = mapped_column(Integer, insert_default=0)
    stalled: Mapped[int] = mapped_column(Integer, insert_default=0)
    """Attempts in a row that reached no step beyond `furthest_step`."""
    furthest_step: Mapped[int] = mapped_column(BigInteger, insert_default=0)
    step_at_claim: Mapped[int] = mapped_column(BigInteger, insert_default=0)
    reports_read: Mapped[int] = mapped_column(BigInteger, insert_default=0, server_default="0")
    """How far, in bytes, the reports of this attempt are in the log."""
    cancel_requested_at: Mapped[float | None]
    pause_requested_at: Mapped[float | None]
    paused_at: Mapped[float | None]

    progress: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    artifact_id: Mapped[str | None] = mapped_column(String(40))
    event_seq: Mapped[int] = mapped_column(BigInteger, insert_default=0)

    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class JobDataset(Base):
    """Which uploaded datasets a job reads, so that one in use cannot be deleted."""

    __tablename__ = "job_datasets"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True, index=True)


class Event(Base):
    """One entry of a job's append-only log; `seq` counts from 1 without gaps."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job_id_type_seq", "job_id", "type", "seq"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(20))
    attempt: Mapped[int] = mapped_column(Integer)
    data: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(insert_default=db_now())


class LogChunk(Base):
    """A piece of the training process's text output."""

    __tablename__ = "log_chunks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(Text)


class Artifact(Base):
    """A folder in storage whose manifest is complete: a checkpoint (with its step) or the published model."""

    __tablename__ = "artifacts"
    __table_args__ = (
        CheckConstraint("kind IN ('model', 'checkpoint')", name="kind"),
        Index("uq_artifacts_job_id_attempt_kind_step", "job_id", "attempt", "kind", "step", unique=True),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(20))
    step: Mapped[int] = mapped_column(BigInteger)
    epoch: Mapped[float | None]
    is_best: Mapped[bool]
    metrics: Mapped[dict[str, Any]]
    prefix: Mapped[str] = mapped_column(String(500))
    files: Mapped[list[dict[str, Any]]]
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    deleted_at: Mapped[float | None]


class IdempotencyKey(Base):
    """Which job an Idempotency-Key made, and from what body."""

    __tablename__ = "idempotency_keys"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())


class Worker(Base):
    """A worker process and what it can run."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(String(50))
    queues: Mapped[str] = mapped_column(String(200))
    engines: Mapped[str] = mapped_column(String(200))
    features: Mapped[list[str] | None]
    """What it knows (`app.specs.features`); None for a worker of a version before 0007."""
    slots: Mapped[int] = mapped_column(Integer)
    hardware: Mapped[dict[str, Any]]
    started_at: Mapped[float] = mapped_column(insert_default=db_now())
    last_seen_at: Mapped[float] = mapped_column(insert_default=db_now())
    stopped_at: Mapped[float | None]


class Webhook(Base):
    """An address that a project wants its jobs' status events sent to, and how the last try went."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    url: Mapped[str] = mapped_column(String(2048))
    events: Mapped[str] = mapped_column(String(200))
    """Types of events, joined by commas."""
    secret: Mapped[str] = mapped_column(String(100))
    """In clear: a signature cannot be made from a hash."""
    failures: Mapped[int] = mapped_column(Integer, insert_default=0)
    """Tries that failed since the last one that did not."""
    given_up: Mapped[int] = mapped_column(BigInteger, insert_default=0)
    last_attempt_at: Mapped[float | None]
    last_status_code: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(String(300))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    disabled_at: Mapped[float | None]


class WebhookDelivery(Base):
    """A status event that a webhook has still to be sent. Once it is, the row is gone."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "seq"], ["events.job_id", "events.seq"]),
        Index("ix_webhook_deliveries_webhook_id_due_at", "webhook_id", "due_at"),
    )

    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tries: Mapped[int] = mapped_column(Integer)
    """Only grows, and guards what the process that tries may write."""
    due_at: Mapped[float]
    """When to try next; while a process tries, when it is taken for dead."""
