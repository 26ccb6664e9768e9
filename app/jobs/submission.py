"""Decides whether a spec can become a job: everything that can be checked without ML."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.datasets import queries as datasets
from app.datasets.checks import DataReport, Rows, check_rows
from app.datasets.local_copy import LocalCopies
from app.datasets.tables import Dataset
from app.db import Database
from app.errors import Conflict, InvalidRequest
from app.identifiers import new_id
from app.jobs import lifecycle, queries
from app.jobs.check_memory import CheckMemory, check_key, content_hash
from app.jobs.states import JobStatus
from app.jobs.tables import Job, JobDataset
from app.local_models import local_models
from app.specs import JobSpec, problems
from app.specs.compatibility import supports
from app.specs.data import DataSource, InlineData, UploadedData
from app.specs.durations import seconds
from app.specs.features import LOCAL_MODEL, known_features, used_features
from app.specs.methods import GPU_METHODS
from app.specs.preflight import Findings
from app.specs.training import AUTO_BATCH_SIZE
from app.specs.usual_columns import suggested_columns
from app.workers import queries as workers

INLINE_LIMIT_BYTES = 1024**2


class Estimate(NamedTuple):
    """Rows and optimizer steps; None if only the hub knows."""

    train_rows: int | None
    eval_rows: int | None
    steps: int | None


@dataclass(frozen=True)
class CheckedSpec:
    """A spec that can become a job."""

    spec: JobSpec
    datasets: Mapping[str, Dataset]
    """Split to uploaded dataset, for the splits that are uploaded."""
    findings: Findings | None = None
    """What was found in the checked rows; None if only the hub has them."""

    def job(self, project_id: str, body_sha256: str) -> Job:
        """The row to submit. `body_sha256` is the hash of the request body."""
        return Job(
            id=new_id("job"),
            project_id=project_id,
            name=self.spec.name,
            task=self.spec.task.type,
            user_metadata=dict(self.spec.metadata),
            priority=self.spec.priority,
            queue=_queue(self.spec),
            engine=self.spec.training.engine,
            features=used_features(self.spec),
            timeout_seconds=seconds(self.spec.resources.timeout),
            body_sha256=body_sha256,
            spec=self.spec.model_dump(mode="json"),
            preflight=None if self.findings is None else {"data": self.findings},
        )

    def dataset_ids(self) -> set[str]:
        """The uploaded datasets that the job will read."""
        return {dataset.id for dataset in self.datasets.values()}

    def estimate(self) -> Estimate:
        """How much work the job has."""
        train, evaluation = self._rows("train"), self._rows("eval")
        fraction = self.spec.data.eval_fraction
        if train is not None and fraction is not None:
            evaluation = max(1, round(train * fraction))
            train -= evaluation
        if train is not None and self.spec.data.subset.train is not None:
            train = min(train, self.spec.data.subset.train)
        if evaluation is not None and self.spec.data.subset.eval is not None:
            evaluation = min(evaluation, self.spec.data.subset.eval)
        return Estimate(train, evaluation, self._steps(train))

    def _rows(self, split: str) -> int | None:
        source = _sources(self.spec).get(split)
        if split in self.datasets:
            return self.datasets[split].rows
        return len(source.rows) if isinstance(source, InlineData) else None

    def _steps(self, train_rows: int | None) -> int | None:
        training = self.spec.training
        if training.max_steps is not None or training.batch_tokens is not None or train_rows is None:
            return training.max_steps
        batch_size = AUTO_BATCH_SIZE if training.batch_size == "auto" else training.batch_size
        batches = math.ceil(train_rows / batch_size)
        return math.ceil(max(1, math.ceil(batches / training.gradient_accumulation)) * training.epochs)


def check(
    database: Database,
    copies: LocalCopies,
    memory: CheckMemory,
    project_id: str,
    spec: JobSpec,
    *,
    row_limit: int,
    models_dir: Path,
) -> CheckedSpec:
    """Check a spec against what the project and the workers have, and up to `row_limit` rows of each split.

    `models_dir` is the models folder of this process, which workers may share. Rows that `memory` has are not checked again.

    Raises InvalidRequest naming field, row and column; StorageError.
    """
    inline = _inline_hashes(spec)
    uploaded = _look_up(database, memory, project_id, spec, models_dir)
    _check_columns(spec, uploaded)
    hashes = {**inline, **{split: content_hash(dataset) for split, dataset in uploaded.items()}}
    if "train" not in hashes:
        return CheckedSpec(spec, uploaded)
    key = check_key(spec, hashes, row_limit)
    findings = memory.get(key)
    if findings is None:
        findings = _check_rows(spec, uploaded, copies, row_limit)
        memory.keep(key, findings)
    return CheckedSpec(spec, uploaded, findings)


def _look_up(
    database: Database, memory: CheckMemory, project_id: str, spec: JobSpec, models_dir: Path
) -> dict[str, Dataset]:
    """The uploaded datasets of a spec, after a check of all that it names."""
    kind, _, name = spec.model.id.partition(":")
    model_is_known = kind not in {"job", "local"} or (kind == "local" and memory.has_model(name))
    uploads = any(isinstance(source, UploadedData) for source in _sources(spec).values())
    if model_is_known and not uploads and spec.training.method.type not in GPU_METHODS:
        return {}
    with database.read() as session:
        uploaded = _datasets(session, project_id, spec)
        _check_earlier_job(session, project_id, spec)
        _check_local_model(session, spec, models_dir)
        _check_hardware(session, spec)
    if kind == "local":
        memory.keep_model(name)
    return uploaded


def find(session: Session, parent: Job, models_dir: Path) -> CheckedSpec:
    """The checked spec of a job that shall run again.

    Its rows were checked when it was submitted and cannot have changed. Raises Conflict if this version cannot run its
    spec, InvalidRequest if something that it reads is gone.
    """
    spec = _stored_spec(parent)
    _check_earlier_job(session, parent.project_id, spec)
    _check_local_model(session, spec, models_dir)
    return CheckedSpec(spec, _datasets(session, parent.project_id, spec))


def create(session: Session, checked: CheckedSpec, job: Job) -> None:
    """Submit the job of a checked spec together with the datasets that it reads. The caller commits.

    Raises InvalidRequest when a dataset was deleted since the check.
    """
    _hold_datasets(session, checked)
    lifecycle.submit(session, job)
    session.add_all(JobDataset(job_id=job.id, dataset_id=found) for found in checked.dataset_ids())


def _hold_datasets(session: Session, checked: CheckedSpec) -> None:
    # In the transaction of the job, so that none is deleted before the job is there.
    held = datasets.hold(session, checked.dataset_ids())
    for split, dataset in checked.datasets.items():
        if dataset.id not in held:
            raise _no_dataset(split)


def _stored_spec(job: Job) -> JobSpec:
    # Fields that this version does not know are ignored when the spec is read, so a job that uses one must not get this
    # far.
    used = {feature for feature in job.features or () if not feature.startswith(LOCAL_MODEL)}
    unknown = sorted(used - known_features())
    if unknown:
        message = (
            f"this job uses {', '.join(unknown)}, which this version of the service does not know; "
            "retry it with the version that created it, or post a new job without that"
        )
        raise Conflict(message, param=unknown[0].partition("=")[0], code="spec_unsupported")
    try:
        return JobSpec.from_stored(job.spec)
    except ValidationError as error:
        first = problems(error, job.spec)[0]
        message = (
            f"another version of the service accepted the spec of this job, and this version does not: "
            f"'{first.param}' {first.message}; post a new job (POST /v1/jobs) with that field changed"
        )
        raise Conflict(message, param=first.param, code="spec_unsupported") from error


def _queue(spec: JobSpec) -> str:
    if not supports(spec.training.engine, "resources.gpus", 1):
        return "cpu"
    if spec.training.method.type in GPU_METHODS:
        return "gpu"
    return {0: "cpu", 1: "gpu", "auto": "any"}[spec.resources.gpus]


def _sources(spec: JobSpec) -> dict[str, DataSource]:
    splits = {"train": spec.data.train, "eval": spec.data.eval, "test": spec.data.test}
    return {split: source for split, source in splits.items() if source is not None}


def _inline_hashes(spec: JobSpec) -> dict[str, str]:
    """The sha256 of the inline rows of each split that has them. Raises InvalidRequest if they are too large."""
    hashes: dict[str, str] = {}
    for split, source in _sources(spec).items():
        if not isinstance(source, InlineData):
            continue
        encoded = json.dumps(source.rows, ensure_ascii=False).encode()
        if len(encoded) > INLINE_LIMIT_BYTES:
            message = (
                f"inline rows are limited to {INLINE_LIMIT_BYTES} bytes; upload larger data with POST /v1/datasets"
            )
            raise InvalidRequest(message, param=f"data.{split}.rows", code="too_many_inline_rows")
        hashes[split] = sha256(encoded).hexdigest()
    return hashes


def _datasets(session: Session, project_id: str, spec: JobSpec) -> dict[str, Dataset]:
    found: dict[str, Dataset] = {}
    for split, source in _sources(spec).items():
        if not isinstance(source, UploadedData):
            continue
        dataset = datasets.dataset(session, project_id, source.dataset)
        if dataset is None:
            raise _no_dataset(split)
        found[split] = dataset
    return found


def _no_dataset(split: str) -> InvalidRequest:
    message = "there is no such dataset in this project; GET /v1/datasets lists them"
    return InvalidRequest(message, param=f"data.{split}.dataset", code="dataset_not_found")


def _check_earlier_job(session: Session, project_id: str, spec: JobSpec) -> None:
    if not spec.model.id.startswith("job:"):
        return
    earlier = queries.job(session, project_id, spec.model.id.removeprefix("job:"))
    if earlier is None:
        raise InvalidRequest("there is no such job in this project", param="model.id", code="job_not_found")
    if earlier.status != JobStatus.SUCCEEDED:
        message = f"that job is '{earlier.status}'; only a succeeded job has a model to start from"
        raise InvalidRequest(message, param="model.id", code="model_not_published")
    if earlier.spec["training"]["method"].get("export") == "adapter":
        message = 'that job published only an adapter, not a whole model; run it again with export "merged"'
        raise InvalidRequest(message, param="model.id", code="model_not_whole")


def _check_local_model(session: Session, spec: JobSpec, models_dir: Path) -> None:
    kind, _, name = spec.model.id.partition(":")
    if kind != "local":
        return
    announced = [worker.features for worker, _ in workers.listed(session, silent_for=1) if worker.features is not None]
    own = local_models(models_dir)
    if not announced and not own:
        # No worker of the last day announced its models, and this process may have no models folder.
        return
    prefixed = {feature for features in announced for feature in features if feature.startswith(LOCAL_MODEL)}
    known = sorted({*own, *(feature.removeprefix(LOCAL_MODEL) for feature in prefixed)})
    if name in known:
        return
    near = get_close_matches(name, known, n=1)
    hint = (
        f"did you mean 'local:{near[0]}'?"
        if near
        else "copy the model into TUNESMITH_MODELS_DIR of a worker, or use a hub id"
    )
    raise InvalidRequest(f"no worker has the model '{spec.model.id}'; {hint}", param="model.id", code="model_not_found")


def _check_hardware(session: Session, spec: JobSpec) -> None:
    # A job that requests a GPU waits until there is one. A method that needs a GPU could wait forever, so it is
    # refused.
    method = spec.training.method.type
    if method not in GPU_METHODS or any(
        worker.hardware.get("gpus") for worker, _ in workers.listed(session, silent_for=1)
    ):
        return
    message = f"no worker of this server has a GPU, which the method {method} needs; 'lora' runs on any worker"
    raise InvalidRequest(message, param="training.method.type", code="method_unavailable")


def _check_columns(spec: JobSpec, uploaded: Mapping[str, Dataset]) -> None:
    # This applies even if train is on the hub and its rows are not checked below, because columns need no rows.
    for split, dataset in uploaded.items():
        names = [str(column["name"]) for column in dataset.columns]
        for role, column in spec.columns.items():
            if column not in names:
                # A suggestion is never applied automatically: a wrong guess would train a model on the wrong column.
                suggestion = suggested_columns(spec.columns, names, spec.task.known_roles)
                offer = f'perhaps "columns": {json.dumps(suggestion, ensure_ascii=False)}; ' if suggestion else ""
                message = (
                    f"{split} has no column '{column}' for the role {role}; {offer}"
                    f"its columns are {', '.join(names[:50])}; name the right one in data.columns.{role}"
                )
                raise InvalidRequest(
                    message,
                    param=f"data.columns.{role}",
                    code="missing_column",
                    details={"split": split, "columns": names, **({"suggestion": suggestion} if suggestion else {})},
                )


def _check_rows(spec: JobSpec, uploaded: Mapping[str, Dataset], copies: LocalCopies, row_limit: int) -> Findings:
    rows: dict[str, Rows] = {}
    for split, source in _sources(spec).items():
        if isinstance(source, InlineData):
            rows[split] = source.rows
        elif split in uploaded:
            rows[split] = copies.parquet(uploaded[split])
    try:
        report = check_rows(spec, rows["train"], rows.get("eval"), rows.get("test"), row_limit=row_limit)
    except FileNotFoundError:
        # A dataset and its local copy were deleted before they could be read.
        raise _no_dataset(next(split for split in rows if split in uploaded)) from None
    if report.total:
        raise InvalidRequest(
            _sentence(report),
            param=report.problems[0].param,
            code=report.problems[0].code,
            details=[asdict(problem) for problem in report.problems],
        )
    return report.findings


def _sentence(report: DataReport) -> str:
    first = report.problems[0].message
    if report.total == 1:
        return first
    return f"{first} (and {report.total - 1} more; see details, or skip such rows with data.on_bad_row)"
