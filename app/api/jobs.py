"""Create, read, list, cancel, pause, resume and retry jobs."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from sqlalchemy.orm import Session

from app.api.answers import Error, Estimate, JobAnswer, JobLinks, Page, Validation
from app.api.body import json_body
from app.api.context import Context, ProjectId, ServiceContext
from app.api.parameters import Limit, family, point_in_time
from app.errors import Conflict, InvalidRequest, NotFound
from app.jobs import idempotency, lifecycle, queries, submission, waiting
from app.jobs.states import TERMINAL, JobStatus
from app.jobs.tables import Artifact, Job
from app.jobs.usage import usage
from app.specs import JobSpec
from app.specs.retry import Retry

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Body = Annotated[tuple[JobSpec, Any], Depends(json_body(JobSpec))]
RetryBody = Annotated[tuple[Retry, Any], Depends(json_body(Retry, may_be_empty=True))]


@router.post(
    "", status_code=201, response_model=JobAnswer, responses={200: {"model": JobAnswer}, 422: {"model": Error}}
)
def create(
    body: Body,
    context: Context,
    project: ProjectId,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="Any text of up to 255 characters. A repeated request with the same key and body "
            "returns the same job (200).",
        ),
    ] = None,
    x_stainless_retry_count: Annotated[
        int | None,
        Header(
            ge=0,
            le=1000,
            description="Sent by the openai client, which has no idempotency key. A retry with a body that "
            "created a job in the last ten minutes returns that job.",
        ),
    ] = None,
) -> JobAnswer:
    """Create a fine-tuning job."""
    spec, tree = body
    request = idempotency.Request(
        project, idempotency.body_sha256(tree), idempotency_key, is_retry=bool(x_stainless_retry_count)
    )
    if earlier := idempotency.earlier_job(context.database, request):
        return _replay(context, project, earlier, response)
    job, is_new = idempotency.create(context.database, request, _check(context, project, spec))
    if not is_new:
        return _replay(context, project, job, response)
    context.hints.give(job.queue)
    return _answer(context, project, job.id)


@router.post("/validate", response_model=Validation, responses={422: {"model": Error}})
def validate(body: Body, context: Context, project: ProjectId) -> Validation:
    """Check a spec as create does, and estimate the work, without creating a job."""
    checked = _check(context, project, body[0])
    return Validation(
        estimate=Estimate(**checked.estimate()._asdict()),
        preflight=None if checked.findings is None else {"data": checked.findings},
        spec=checked.spec.model_dump(mode="json"),
    )


@router.get("", response_model=Page[JobAnswer])
def list_jobs(  # noqa: PLR0917 - FastAPI passes them by name
    request: Request,
    context: Context,
    project: ProjectId,
    limit: Limit = 20,
    after: Annotated[str | None, Query(max_length=40, description="The last id of the previous page.")] = None,
    status: Annotated[JobStatus | None, Query(description="Only jobs in this status.")] = None,
    task: Annotated[str | None, Query(max_length=50, description="Only jobs of this task type.")] = None,
    name: Annotated[str | None, Query(max_length=200, description="Only jobs with exactly this name.")] = None,
    metadata: Annotated[
        str | None,
        Query(
            alias="metadata[key]", description="Only jobs whose metadata has this value under `key`; may be repeated."
        ),
    ] = None,
    created_after: Annotated[str | None, Query(description="ISO 8601 or seconds since 1970.")] = None,
    created_before: Annotated[str | None, Query(description="ISO 8601 or seconds since 1970.")] = None,
) -> Page[JobAnswer]:
    """List jobs, newest first."""
    with context.database.read() as session:
        found, has_more = queries.jobs(
            session,
            project,
            limit=limit,
            after=after,
            status=status,
            task=task,
            name=name,
            metadata=family(request, "metadata"),
            created_after=point_in_time("created_after", created_after),
            created_before=point_in_time("created_before", created_before),
        )
        queued = {job.queue for job in found if job.status == JobStatus.QUEUED}
        positions = waiting.queue_positions(session, sorted(queued)) if queued else {}
        at = queries.clock(session)
        return Page(data=[job_answer(job, at, positions.get(job.id)) for job in found], has_more=has_more)


@router.get("/{job_id}", response_model=JobAnswer, responses={404: {"model": Error}})
def get(job_id: str, context: Context, project: ProjectId) -> JobAnswer:
    """Get a job."""
    return _answer(context, project, job_id)


@router.post("/{job_id}/cancel", response_model=JobAnswer, responses={404: {"model": Error}, 409: {"model": Error}})
def cancel(job_id: str, context: Context, project: ProjectId) -> JobAnswer:
    """Cancel a job. A running one saves a checkpoint and stops; poll until its status is `cancelled`."""
    return _request(context, project, job_id, lifecycle.cancel, "only a job that has not ended can be cancelled")


@router.post("/{job_id}/pause", response_model=JobAnswer, responses={404: {"model": Error}, 409: {"model": Error}})
def pause(job_id: str, context: Context, project: ProjectId) -> JobAnswer:
    """Pause a job. A running one saves a checkpoint and frees its slot; poll until its status is `paused`."""
    return _request(context, project, job_id, lifecycle.pause, "only a queued or running job can be paused")


@router.post("/{job_id}/resume", response_model=JobAnswer, responses={404: {"model": Error}, 409: {"model": Error}})
def resume(job_id: str, context: Context, project: ProjectId) -> JobAnswer:
    """Put a paused job back into the queue. It continues from its newest checkpoint."""
    answer = _request(context, project, job_id, lifecycle.resume, "only a paused job can be resumed")
    context.hints.give(answer.queue)
    return answer


@router.post(
    "/{job_id}/retry",
    status_code=201,
    response_model=JobAnswer,
    responses={404: {"model": Error}, 409: {"model": Error}},
)
def retry(job_id: str, body: RetryBody, context: Context, project: ProjectId) -> JobAnswer:
    """Create a new job from one that has ended: the same spec, from the start or from one of its checkpoints."""
    with context.database.write() as session:
        parent = job_of(queries.job(session, project, job_id))
        if parent.status not in TERMINAL:
            raise Conflict(
                f"this job is '{parent.status}'; only a job that has ended can be retried", code="job_not_ended"
            )
        start = _start(session, parent, body[0].from_checkpoint)
        checked = submission.find(session, parent, context.settings.models())
        child = checked.job(project, body_sha256=parent.body_sha256)
        child.parent_id = parent.id
        if start is not None:
            child.start_artifact_id, child.resolved = start.id, parent.resolved
        submission.create(session, checked, child)
    context.hints.give(child.queue)
    return _answer(context, project, child.id)


def _start(session: Session, parent: Job, step: int | Literal["latest"] | None) -> Artifact | None:
    if step is None:
        return None
    offered = queries.checkpoints(session, parent.id)
    found = next((item for item in offered if step in ("latest", item.step)), None)
    if found is None:
        steps = ", ".join(str(item.step) for item in offered) or "none"
        message = f"this job has no such checkpoint; it has checkpoints at steps: {steps}"
        raise InvalidRequest(message, param="from_checkpoint", code="checkpoint_not_found")
    return found


def _request(
    context: ServiceContext, project: str, job_id: str, request: Callable[[Session, str], bool], otherwise: str
) -> JobAnswer:
    with context.database.write() as session:
        job = job_of(queries.job(session, project, job_id))
        if not request(session, job.id):
            session.refresh(job)
            code = "job_ended" if job.status in TERMINAL else "wrong_state"
            raise Conflict(f"this job is '{job.status}'; {otherwise}", code=code)
    return _answer(context, project, job_id)


def job_of(job: Job | None) -> Job:
    """The job, or NotFound for None."""
    if job is None:
        raise NotFound("there is no such job in this project", param="job_id", code="job_not_found")
    return job


def job_answer(job: Job, at: float, queue_position: int | None, waiting_for: str | None = None) -> JobAnswer:
    """A job as clients see it. `at` is the time, on the database's clock, up to which its seconds are counted."""
    base = f"/v1/jobs/{job.id}"
    links = {part: f"{base}/{part}" for part in JobLinks.model_fields if part != "self"}
    return JobAnswer.model_validate(
        {
            **{
                field: getattr(job, field)
                for field in JobAnswer.model_fields
                if hasattr(job, field) and field != "metadata"
            },
            **{name: round(seconds, 3) for name, seconds in usage(job, at)._asdict().items()},
            "metadata": job.user_metadata,
            "metrics": job.metrics or {},
            "cancel_requested": job.cancel_requested_at is not None,
            "pause_requested": job.pause_requested_at is not None and job.status not in TERMINAL,
            "queue_position": queue_position,
            "waiting_for": waiting_for,
            "links": {"self": base, **links},
        }
    )


def _check(context: ServiceContext, project: str, spec: JobSpec) -> submission.CheckedSpec:
    return submission.check(
        context.database,
        context.copies,
        project,
        spec,
        row_limit=context.settings.row_check_limit,
        models_dir=context.settings.models(),
    )


def _answer(context: ServiceContext, project: str, job_id: str) -> JobAnswer:
    with context.database.read() as session:
        return _described(context, session, job_of(queries.job(session, project, job_id)))


def _described(context: ServiceContext, session: Session, job: Job) -> JobAnswer:
    at = queries.clock(session)
    if job.status != JobStatus.QUEUED:
        return job_answer(job, at, None)
    position = waiting.queue_positions(session, [job.queue]).get(job.id)
    return job_answer(job, at, position, waiting.waiting_for(session, job, silent_for=context.settings.lease_seconds))


def _replay(context: ServiceContext, project: str, earlier: Job, response: Response) -> JobAnswer:
    response.status_code = 200
    response.headers["idempotent-replayed"] = "true"
    return _answer(context, project, earlier.id)
