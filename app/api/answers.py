"""The models of responses; their text becomes the OpenAPI documentation."""

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
"""A time: seconds since 1970 in the code, ISO 8601 in UTC in JSON."""


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = Field(
        default=False, description="Whether another page follows; request it with `after` set to the last id."
    )


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str = Field(description="What is wrong and what to do, in words.")
    type: str = Field(description="The kind of error, such as `invalid_request_error`.")
    param: str | None = Field(description="The field or parameter that caused the error.")
    code: str = Field(description="What is wrong, as a code for programs.")
    details: Any = Field(default=None, description="Further details, such as each row and column.")


class Error(BaseModel):
    """The envelope of every error of the service."""

    error: ErrorBody


class Progress(BaseModel):
    """How far training is."""

    step: int = Field(description="Optimizer steps done.")
    of: int = Field(description="Total number of optimizer steps.")
    epoch: float = Field(description="Passes over train that are done.")
    samples_per_second: float | None = Field(default=None, description="Training rows per second.")
    eta_seconds: float | None = Field(default=None, description="Seconds until training ends, at this speed.")


class JobError(BaseModel):
    """Why an attempt failed: the most recent attempt of a queued job, or the last attempt of a failed job."""

    code: str = Field(description=f"What went wrong, as a code for programs: {', '.join(FailureCode)}.")
    message: str
    hint: str | None = Field(default=None, description="What to do about it.")
    details: Any = Field(default=None, description="Split, row, line and column, if a row caused the failure.")
    log_tail: str | None = Field(default=None, description="The last lines that the training process wrote.")


class JobLinks(BaseModel):
    """Links to the other resources of a job."""

    self: str
    events: str
    metrics: str
    logs: str
    checkpoints: str
    artifacts: str
    archive: str


class JobSummary(BaseModel):
    """A fine-tuning job, as lists have it."""

    id: str
    object: Literal["job"] = "job"
    name: str | None
    metadata: dict[str, str]
    parent_id: str | None = Field(description="The job that this one retries.")
    status: str = Field(
        description="queued, running, paused, succeeded, failed or cancelled. The last three are final."
    )
    phase: str | None = Field(
        description="What a running job is doing: preparing, downloading, tokenizing, training, evaluating "
        "or packaging."
    )
    attempt: int = Field(description="How many times a worker has taken the job.")
    failures: int = Field(description="Attempts that failed.")
    workers_lost: int = Field(description="Attempts whose worker stopped renewing its lease.")
    cancel_requested: bool
    pause_requested: bool
    priority: int
    queue: str = Field(description="The kind of worker that the job needs: cpu, gpu or any.")
    queue_position: int | Literal["1000+"] | None = Field(
        description="While the job is queued: the number of jobs of its queue that run before it; `1000+` from 1,000 on."
    )
    waiting_for: str | None = Field(
        description="While the job is queued: why it does not run yet. Lists leave this out."
    )
    progress: Progress | None
    metrics: dict[str, float | None] = Field(
        description="Metrics of the published model. A metric that is undefined for the rows is null."
    )
    error: JobError | None
    pinned: bool = Field(description="Whether retention leaves the job alone.")
    created_at: Time
    first_started_at: Time | None = Field(description="When the first attempt began.")
    started_at: Time | None = Field(description="When the newest attempt began.")
    finished_at: Time | None
    queued_seconds: float = Field(description="Seconds that the job has waited in the queue so far, over all attempts.")
    running_seconds: float = Field(
        description="Seconds that workers have held the job so far, over all attempts, including those that "
        "failed or were lost."
    )
    gpu_seconds: float = Field(description="`running_seconds` times the number of GPUs that each attempt held.")
    links: JobLinks


class JobAnswer(JobSummary):
    """A fine-tuning job."""

    spec: dict[str, Any] = Field(description="The submitted spec, with its defaults filled in.")
    resolved: dict[str, Any] | None = Field(
        description="The values that a worker chose for `auto` and defaults; null before the first attempt has "
        "chosen them."
    )
    preflight: dict[str, Any] | None = Field(
        description="What is known before training. `data`: unusable rows, classes, label drift, rows that are "
        "in two splits, warnings. `tokens`: lengths, and truncated rows. `steps`: seconds per step, peak memory, ETA. "
        "`download`: bytes from the hub, ETA. `warnings`: all messages of the newest attempt."
    )


class Estimate(BaseModel):
    """How much a job has to do, as far as the service knows without tokenizing."""

    train_rows: int | None = Field(description="Rows to train on; null if only the hub knows.")
    eval_rows: int | None = Field(description="Rows to evaluate on.")
    steps: int | None = Field(description="Total number of optimizer steps.")


class Validation(BaseModel):
    """The response to a spec that POST /v1/jobs would accept."""

    object: Literal["validation"] = "validation"
    valid: Literal[True] = True
    estimate: Estimate
    preflight: dict[str, Any] | None = Field(
        description="What is known about the rows that were checked: `data`, as in a job. Null if only the hub "
        "has the rows."
    )
    spec: dict[str, Any] = Field(description="The spec with its defaults filled in.")


class EventAnswer(BaseModel):
    """One entry of a job's log."""

    id: int = Field(description="Counts from 1 without gaps.")
    object: Literal["event"] = "event"
    type: str = Field(description=f"The type of the event: {', '.join(EventType)}.")
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
    """Metric series by name. If two attempts reported the same step, the series has the value of the later attempt."""

    object: Literal["metrics"] = "metrics"
    series: dict[str, list[Point]]


class Logs(BaseModel):
    """A part of a training process's output."""

    object: Literal["logs"] = "logs"
    attempt: int | None
    text: str
    next: int = Field(description="The `start` of what follows, also if the process has not written it yet.")


class CheckpointAnswer(BaseModel):
    """A checkpoint that can be downloaded."""

    object: Literal["checkpoint"] = "checkpoint"
    step: int
    epoch: float | None
    attempt: int
    is_best: bool
    metrics: dict[str, float | None]
    bytes: int
    pinned: bool = Field(description="Whether retention leaves it alone.")
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
    type: str = Field(description="The format of the files: csv, tsv, json, jsonl or parquet; `mixed` if they differ.")
    name: str | None = Field(description="The name that was given at upload.")
    filename: str = Field(description="The name of the file; for several files, that of the first.")
    bytes: int = Field(description="The size of all files, in bytes.")
    sha256: str = Field(description="The hash of the file; for several files, of their bytes in order.")
    rows: int
    columns: list[Column]
    files: list[DatasetFile] = Field(description="The files, in the order of their rows.")
    warnings: list[str] = Field(
        description="Signs that the file is not what it should be, such as a missing header row."
    )
    created_at: Time


class Deleted(BaseModel):
    """A deleted object."""

    id: str
    object: str
    deleted: Literal[True] = True


class TaskAnswer(BaseModel):
    """A task type."""

    id: str
    object: Literal["task"] = "task"
    type: str
    description: str
    required_columns: list[str]
    optional_columns: list[str]
    metrics: list[str]
    engines: list[str]
    engine_limits: dict[str, dict[str, list[Any]]] = Field(
        description="For each engine, the fields for which it supports only certain values. An empty list: it "
        "supports none."
    )
    methods: dict[str, list[str]] = Field(
        description="The methods that can train it, each with the engines that support the method."
    )
    json_schema: dict[str, Any] = Field(description="The JSON schema of `task`.")
    job_schema: dict[str, Any] = Field(description="The JSON schema of the whole job spec.")
    example: dict[str, Any] = Field(description="A body that can be sent to POST /v1/jobs.")


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
    jobs: list[str] = Field(description="Jobs that the worker runs now.")
    started_at: Time
    last_seen_at: Time


class Health(BaseModel):
    """Liveness or readiness."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field(default_factory=dict)
