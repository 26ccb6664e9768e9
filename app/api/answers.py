"""The shapes of answers; their text becomes the OpenAPI documentation."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, PlainSerializer

from app.failures import FailureCode
from app.jobs.events import EventType, described

Item = TypeVar("Item")

Time = Annotated[
    float,
    PlainSerializer(
        lambda seconds: datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        return_type=str,
    ),
]
"""Seconds since 1970 inside, ISO 8601 in UTC outside."""


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = Field(
        default=False, description="Whether another page follows: ask again with `after` the last id."
    )


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str = Field(description="What is wrong and what to do, for people.")
    type: str = Field(description="The kind of error, such as `invalid_request_error`.")
    param: str | None = Field(description="The field or parameter it is about.")
    code: str = Field(description="What is wrong, for programs.")
    details: Any = Field(default=None, description="More, such as each row and column.")


class Error(BaseModel):
    """Every error of the service."""

    error: ErrorBody


class Progress(BaseModel):
    """How far training is."""

    step: int = Field(description="Optimiser steps done.")
    of: int = Field(description="Optimiser steps in all.")
    epoch: float = Field(description="Passes over train done.")
    samples_per_second: float | None = Field(default=None, description="Training rows a second.")
    eta_seconds: float | None = Field(default=None, description="Seconds until training ends, at this speed.")


class JobError(BaseModel):
    """Why an attempt failed: the last one of a queued job, the final one of a failed job."""

    code: str = Field(description=f"What went wrong, for programs: {', '.join(FailureCode)}.")
    message: str
    hint: str | None = Field(default=None, description="What to do about it.")
    details: Any = Field(default=None, description="Split, row, line and column, where a row is to blame.")
    log_tail: str | None = Field(default=None, description="The last lines that the training process wrote.")


class JobLinks(BaseModel):
    """Where the rest of a job is."""

    self: str
    events: str
    metrics: str
    logs: str
    checkpoints: str
    artifacts: str
    archive: str


class JobAnswer(BaseModel):
    """A fine-tuning job."""

    id: str
    object: Literal["job"] = "job"
    name: str | None
    metadata: dict[str, str]
    parent_id: str | None = Field(description="The job that this one retries.")
    status: str = Field(
        description="queued, running, paused, succeeded, failed or cancelled; the last three are final."
    )
    phase: str | None = Field(
        description="What a running job is doing: preparing, downloading, tokenizing, profiling, profiling_evaluation, training, "
        "evaluating or packaging."
    )
    attempt: int = Field(description="How many times a worker has taken the job.")
    failures: int = Field(description="Attempts that failed.")
    workers_lost: int = Field(description="Attempts whose worker stopped renewing its lease.")
    cancel_requested: bool
    pause_requested: bool
    priority: int
    queue: str = Field(description="What it needs of a worker: cpu, gpu or any.")
    queue_position: int | None = Field(description="Jobs that go first, while it is queued.")
    waiting_for: str | None = Field(description="Why it does not run yet, while it is queued; not in lists.")
    progress: Progress | None
    metrics: dict[str, float | None] = Field(
        description="Metrics of the published model. A metric that is undefined for the rows is null."
    )
    error: JobError | None
    spec: dict[str, Any] = Field(description="What was asked, defaults filled in.")
    resolved: dict[str, Any] | None = Field(
        description="What `auto` and defaults became, once a worker has settled it."
    )
    preflight: dict[str, Any] | None = Field(
        description="What was found before training. `data`: unusable rows, classes, their drift, rows that are in two "
        "splits, warnings. `tokens`: lengths, and rows that were cut. `steps`: seconds a step, peak memory, ETA."
    )
    created_at: Time
    first_started_at: Time | None = Field(description="When the first attempt began.")
    started_at: Time | None = Field(description="When the newest attempt began.")
    finished_at: Time | None
    queued_seconds: float = Field(description="Seconds that it has waited in the queue so far, over all attempts.")
    running_seconds: float = Field(
        description="Seconds that workers have held it so far, over all attempts, those that failed or were lost included."
    )
    gpu_seconds: float = Field(description="The same, times the GPUs that it held.")
    links: JobLinks


class Estimate(BaseModel):
    """What a job would do, as far as the service can tell without tokenizing."""

    train_rows: int | None = Field(description="Rows to train on; null where only the hub knows.")
    eval_rows: int | None = Field(description="Rows to evaluate on.")
    steps: int | None = Field(description="Optimiser steps in all.")


class Validation(BaseModel):
    """The answer to a spec that POST /v1/jobs would take."""

    object: Literal["validation"] = "validation"
    valid: Literal[True] = True
    estimate: Estimate
    preflight: dict[str, Any] | None = Field(
        description="What was found in the rows looked at: `data`, as a job has it. Null where only the hub has the rows."
    )
    spec: dict[str, Any] = Field(description="The spec with its defaults filled in.")


class EventAnswer(BaseModel):
    """One entry of a job's log."""

    id: int = Field(description="Counts from 1 without gaps.")
    object: Literal["event"] = "event"
    type: str = Field(description=f"What it tells about: {', '.join(EventType)}.")
    attempt: int
    data: dict[str, Any] = Field(description=f"The fields of each type: {described()}.")
    created_at: Time


class Point(BaseModel):
    """One value of a series."""

    step: int
    epoch: float | None
    value: float
    attempt: int
    time: Time


class Metrics(BaseModel):
    """Metric series by name; of a step that two attempts reported, the later one stands."""

    object: Literal["metrics"] = "metrics"
    series: dict[str, list[Point]]


class Logs(BaseModel):
    """The end of what a training process wrote."""

    object: Literal["logs"] = "logs"
    attempt: int | None
    text: str


class CheckpointAnswer(BaseModel):
    """A checkpoint that can be downloaded."""

    object: Literal["checkpoint"] = "checkpoint"
    step: int
    epoch: float | None
    attempt: int
    is_best: bool
    metrics: dict[str, float | None]
    bytes: int
    created_at: Time
    archive: str


class FileAnswer(BaseModel):
    """One file of a model or checkpoint."""

    object: Literal["file"] = "file"
    path: str
    size: int = Field(description="Bytes.")
    sha256: str
    url: str


class Column(BaseModel):
    """A column of a dataset."""

    name: str
    type: str
    nulls: int | None = None
    distinct: int | None = None
    example: Any = None


class DatasetFile(BaseModel):
    """One file of a dataset."""

    name: str
    format: str = Field(description="csv, tsv, json, jsonl or parquet.")
    bytes: int
    sha256: str
    rows: int


class DatasetAnswer(BaseModel):
    """An uploaded dataset."""

    id: str
    object: Literal["dataset"] = "dataset"
    type: str = Field(description="The files' format: csv, tsv, json, jsonl or parquet; `mixed` where they differ.")
    name: str | None = Field(description="What it was called when it was uploaded.")
    filename: str = Field(description="The file's name; of several, the first one's.")
    bytes: int = Field(description="Bytes of all files.")
    sha256: str = Field(description="Of the file; of several, of their bytes one file after the other.")
    rows: int
    columns: list[Column]
    files: list[DatasetFile] = Field(description="The files, in the order of their rows.")
    warnings: list[str] = Field(
        description="Signs that the file is not what it should be, such as a missing header row."
    )
    created_at: Time


class Deleted(BaseModel):
    """Something that is gone."""

    id: str
    object: str
    deleted: Literal[True] = True


class TaskAnswer(BaseModel):
    """A task type that jobs can have."""

    id: str
    object: Literal["task"] = "task"
    type: str
    description: str
    required_columns: list[str]
    optional_columns: list[str]
    metrics: list[str]
    engines: list[str]
    engine_limits: dict[str, dict[str, list[Any]]] = Field(
        description="For each engine, the fields of a job where it takes only these values. An empty list: none."
    )
    methods: dict[str, list[str]] = Field(
        description="The methods it can be tuned by, each with the engines that know it."
    )
    json_schema: dict[str, Any] = Field(description="The JSON schema of `task`.")
    job_schema: dict[str, Any] = Field(description="The JSON schema of the whole job spec.")
    example: dict[str, Any] = Field(description="A body for POST /v1/jobs.")


class WorkerAnswer(BaseModel):
    """A worker process."""

    id: str
    object: Literal["worker"] = "worker"
    host: str
    pid: int
    version: str
    alive: bool
    queues: list[str]
    engines: list[str]
    slots: int
    hardware: dict[str, Any]
    jobs: list[str] = Field(description="Jobs it runs now.")
    started_at: Time
    last_seen_at: Time


class Health(BaseModel):
    """Liveness or readiness."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field(default_factory=dict)
