"""Fetches what a training process needs, and writes its request."""

from pathlib import Path

from pydantic import ValidationError

from app import __version__
from app.jobs import lifecycle, queries
from app.jobs.lifecycle import Lease
from app.jobs.tables import Artifact, Job
from app.specs import JobSpec, Resolved, problems
from app.storage import ObjectNotFound
from worker.artifacts import fetch, fetch_checkpoint, newest_checkpoint
from worker.context import WorkerContext
from worker.supervise import Assignment
from worker.training.checkpoints.folders import Manifest, read_manifest
from worker.training.errors import CheckpointBroken
from worker.training.request import TrainingRequest
from worker.training.tokens.eviction import evict


class Unpreparable(Exception):
    """Something that the job needs is gone, so no attempt can succeed."""


class SpecUnsupported(Exception):
    """Another version accepted the stored spec, and this version does not. The message names the field."""


def prepare(context: WorkerContext, job: Job, folder: Path, gpu: str | None) -> Assignment:
    """Fetch datasets, an earlier job's model and the newest checkpoint, for a run on this GPU.

    Raises SpecUnsupported, Unpreparable, StorageError, OSError.
    """
    spec = _spec(job)
    out_dir = folder / "out"
    out_dir.mkdir()
    tokens = context.settings.cache() / "tokens"
    # A training process sees only the entries of its own project.
    evict(tokens, context.settings.token_cache_bytes)
    request = TrainingRequest(
        spec=spec,
        out_dir=out_dir,
        datasets=_datasets(context, job),
        models_dir=context.settings.models(),
        jobs_models=_earlier_model(context, job, spec, folder),
        resolved=Resolved.read(job.resolved, spec.training.gradient_accumulation) if job.resolved else None,
        resume_from=_checkpoint(context, job, folder / "resume"),
        job_id=job.id,
        threads=context.threads_a_slot,
        memory_bytes=context.memory_bytes,
        tensorflow_python=context.settings.tensorflow() if "tensorflow" in context.offer.engines else None,
        token_cache=tokens / job.project_id,
        token_cache_bytes=context.settings.token_cache_bytes,
        compile_cache=context.settings.cache() / "compiled" / job.project_id,
    )
    if request.resume_from is not None and request.resolved is not None:
        _show_resumed_step(context, job, read_manifest(request.resume_from), request.resolved)
    request_file = folder / "request.json"
    request_file.write_text(request.to_json())
    return Assignment(
        request_file=request_file,
        out_dir=out_dir,
        keep_checkpoints=spec.checkpoints.keep,
        seconds_left=_seconds_left(context, job),
        gpu=gpu,
    )


def _spec(job: Job) -> JobSpec:
    try:
        return JobSpec.from_stored(job.spec)
    except ValidationError as error:
        first = problems(error, job.spec)[0]
        raise SpecUnsupported(
            f"another version of the service accepted the spec of this job, and this worker (version {__version__}) does "
            f"not: '{first.param}' {first.message}"
        ) from error


def _datasets(context: WorkerContext, job: Job) -> dict[str, Path]:
    with context.database.read() as session:
        found = queries.job_datasets(session, job.id)
    try:
        return {dataset.id: context.copies.parquet(dataset) for dataset in found}
    except ObjectNotFound as error:
        raise Unpreparable(f"a dataset of this job is no longer in storage: {error}") from error


def _earlier_model(context: WorkerContext, job: Job, spec: JobSpec, folder: Path) -> dict[str, Path]:
    if not spec.model.id.startswith("job:"):
        return {}
    earlier_id = spec.model.id.removeprefix("job:")
    with context.database.read() as session:
        earlier = queries.job(session, job.project_id, earlier_id)
        artifact = queries.artifact(session, earlier, None) if earlier else None
    if artifact is None:
        raise Unpreparable(f"job {earlier_id}, whose model this job starts from, has no published model")
    target = folder / "earlier"
    try:
        fetch(context.storage, artifact, target)
    except ObjectNotFound as error:
        raise Unpreparable(f"the model of job {earlier_id} is no longer in storage: {error}") from error
    except CheckpointBroken as error:
        raise Unpreparable(f"the stored model of job {earlier_id} is damaged: {error}") from error
    return {earlier_id: target}


def _checkpoint(context: WorkerContext, job: Job, target: Path) -> Path | None:
    """The newest checkpoint of this job; before it has one, the checkpoint of an earlier job that it starts from."""
    found = newest_checkpoint(context.database, context.storage, job.id, target)
    if found is not None or job.start_artifact_id is None:
        return found
    with context.database.read() as session:
        start = session.get(Artifact, job.start_artifact_id)
    found = fetch_checkpoint(context.database, context.storage, start, target) if start is not None else None
    if found is None:
        raise Unpreparable("the checkpoint of the earlier job that this job starts from is gone")
    return found


def _show_resumed_step(context: WorkerContext, job: Job, manifest: Manifest, resolved: Resolved) -> None:
    # Without this, the job would show the progress of the previous attempt until the first step of this one.
    progress = {"step": manifest.step, "of": resolved.total_steps, "epoch": manifest.facts.get("epoch", 0.0)}
    lease = Lease(job.id, job.attempt, context.worker_id)
    with context.database.write() as session:
        lifecycle.record(session, lease, [], progress=progress)


def _seconds_left(context: WorkerContext, job: Job) -> float:
    with context.database.read() as session:
        return queries.seconds_left(session, job.id) or 0.0
