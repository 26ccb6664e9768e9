"""Jobs and all that belongs to one."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.auth.tables import Project
from app.datasets.tables import Dataset
from app.db import db_now
from app.jobs.needs import needs_of_insert
from app.jobs.states import JobStatus
from app.tables import Base


class Job(Base):
    """One fine-tuning job. Only `app.jobs.lifecycle` writes `status` and `attempt`."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status IN ({})".format(", ".join(f"'{status}'" for status in JobStatus)), name="status"),
        Index("ix_jobs_status_queued_at", "status", "queued_at"),
        # The running jobs of each project, and what they hold of each worker.
        Index(
            "ix_jobs_running",
            "project_id",
            "owner",
            "gpus",
            postgresql_where=text("status = 'running'"),
            sqlite_where=text("status = 'running'"),
        ),
        # Jobs that a sweep has to look at, of the many that wait.
        Index(
            "ix_jobs_deadline_at",
            "deadline_at",
            postgresql_where=text("status IN ('queued', 'running')"),
            sqlite_where=text("status IN ('queued', 'running')"),
        ),
        Index(
            "ix_jobs_available_at",
            "available_at",
            postgresql_where=text("status = 'queued'"),
            sqlite_where=text("status = 'queued'"),
        ),
        # The order of lists, for each filter.
        Index("ix_jobs_project_id_created_at", "project_id", "created_at", "id"),
        Index("ix_jobs_project_id_status_created_at", "project_id", "status", "created_at", "id"),
        Index("ix_jobs_project_id_task_created_at", "project_id", "task", "created_at", "id"),
        Index("ix_jobs_project_id_name_created_at", "project_id", "name", "created_at", "id"),
        Index("ix_jobs_project_id_body_sha256", "project_id", "body_sha256"),
        # What retention looks at, and deleted jobs of which something is left.
        Index("ix_jobs_finished_at", "finished_at"),
        Index(
            "ix_jobs_unpurged",
            "deleted_at",
            postgresql_where=text("deleted_at IS NOT NULL AND purged_at IS NULL"),
            sqlite_where=text("deleted_at IS NOT NULL AND purged_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey(Project.id))
    name: Mapped[str | None] = mapped_column(String(200))
    task: Mapped[str] = mapped_column(String(50))
    user_metadata: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(Integer)
    queue: Mapped[str] = mapped_column(String(20))
    engine: Mapped[str] = mapped_column(String(20), insert_default="trainer", server_default="trainer")
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    start_artifact_id: Mapped[str | None] = mapped_column(String(40))
    """The checkpoint of an earlier job that the first attempt continues from."""
    features: Mapped[list[str] | None]
    """What a worker must know to run it (`app.specs.features`); None for a job of a service before 0007."""
    needs: Mapped[str | None] = mapped_column(String(32), insert_default=needs_of_insert)
    """A digest of queue, engine and features (`app.jobs.needs`); None for a job of a service before 0009."""
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
    waiting_since: Mapped[float | None] = mapped_column(insert_default=db_now())
    """When the job last entered the queue. `queued_at` does not change when an attempt fails, and orders the queue."""
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

    queued_seconds: Mapped[float] = mapped_column(insert_default=0.0, server_default="0")
    running_seconds: Mapped[float] = mapped_column(insert_default=0.0, server_default="0")
    gpu_seconds: Mapped[float] = mapped_column(insert_default=0.0, server_default="0")
    """Sums over the statuses that the job has left (`app.jobs.usage`)."""
    gpus: Mapped[int] = mapped_column(Integer, insert_default=0, server_default="0")
    """GPUs that the newest attempt holds or held."""

    progress: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    artifact_id: Mapped[str | None] = mapped_column(String(40))
    event_seq: Mapped[int] = mapped_column(BigInteger, insert_default=0)

    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    first_started_at: Mapped[float | None]
    started_at: Mapped[float | None]
    """When the newest attempt began."""
    finished_at: Mapped[float | None]
    pinned_at: Mapped[float | None]
    """Since when retention leaves the job alone."""
    deleted_at: Mapped[float | None]
    """Since when nobody sees it. The row stays, for idempotency and usage."""
    purged_at: Mapped[float | None]
    """Since when nothing but the row is left of a deleted job."""


Index(
    "ix_jobs_waiting",
    Job.needs,
    Job.project_id,
    Job.priority.desc(),
    Job.queued_at,
    Job.id,
    postgresql_where=text("status = 'queued'"),
    sqlite_where=text("status = 'queued'"),
)
"""The head of each project's queue (`app.jobs.lifecycle.heads`)."""
Index(
    "ix_jobs_front",
    Job.priority.desc(),
    Job.queued_at,
    Job.id,
    postgresql_where=text("status = 'queued'"),
    sqlite_where=text("status = 'queued'"),
)
"""The front of the queue, whatever the project."""


class JobMetadata(Base):
    """The pairs of each job's metadata in the order of lists. A trigger of the database writes them (migration 0010)."""

    __tablename__ = "job_metadata"

    project_id: Mapped[str] = mapped_column(ForeignKey(Project.id), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512), primary_key=True)
    created_at: Mapped[float] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)


class JobDataset(Base):
    """Which uploaded datasets a job reads, so that one in use cannot be deleted."""

    __tablename__ = "job_datasets"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey(Dataset.id), primary_key=True, index=True)


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
    pinned_at: Mapped[float | None]
    """Since when retention leaves it alone."""
    deleted_at: Mapped[float | None]


class IdempotencyKey(Base):
    """The job that an Idempotency-Key created, and the hash of its body."""

    __tablename__ = "idempotency_keys"

    project_id: Mapped[str] = mapped_column(ForeignKey(Project.id), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
