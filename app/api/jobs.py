"""Create, read, list, cancel, pause, resume and retry jobs."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.answers import Deleted, Error, Estimate, JobAnswer, JobSummary, Page, Validation
from app.api.body import json_body
from app.api.context import Context, KeyAccess, ProjectId, ServiceContext, Streams
from app.api.job_json import job_json, page_json
from app.api.json_answers import json_response, matches, tagged
from app.api.parameters import Limit, Moment, family, point_in_time
from app.auth import Access
from app.errors import Conflict, InvalidRequest, NotFound
from app.jobs import deletion, event_log, idempotency, lifecycle, queries, quotas, submission, views
from app.jobs.states import TERMINAL, JobStatus
from app.jobs.tables import Artifact, Job
from app.jobs.views import Filters
from app.specs import JobSpec
from app.specs.retry import Retry

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Body = Annotated[tuple[JobSpec, Any], Depends(json_body(JobSpec))]
RetryBody = Annotated[tuple[Retry, Any], Depends(json_body(Retry, may_be_empty=True))]

PAGE_BYTES = 4 * 1024**2
"""The limit of the specs in one page of a list."""
LONGEST_WAIT_SECONDS = 60

Found = TypeVar("Found")


@router.post(
    "", status_code=201, response_model=JobAnswer, responses={200: {"model": JobAnswer}, 422: {"model": Error}}
)
async def create(
    body: Body,
    context: Context,
    access: KeyAccess,
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
) -> Response:
    """Create a fine-tuning job."""
    spec, tree = body
    request = idempotency.Request(
        access.project_id, idempotency.body_sha256(tree), idempotency_key, is_retry=bool(x_stainless_retry_count)
    )
    job, is_new = await run_in_threadpool(_create, context, access, request, spec)
    if is_new:
        context.entered(job.queue)
    answer, tag = await context.read(_reading(context, access.project_id, job.id))
    headers = {"etag": tag} if is_new else {"etag": tag, "idempotent-replayed": "true"}
    return json_response(answer, status=201 if is_new else 200, headers=headers)


@router.post("/validate", response_model=Validation, responses={422: {"model": Error}})
def validate(body: Body, context: Context, access: KeyAccess) -> Validation:
    """Check a spec as create does, and estimate the work, without creating a job."""
    quotas.check_job(context.database.read, access, body[0].priority)
    checked = _check(context, access.project_id, body[0])
    return Validation(
        estimate=Estimate(**checked.estimate()._asdict()),
        preflight=None if checked.findings is None else {"data": checked.findings},
        spec=checked.spec.model_dump(mode="json"),
    )


@router.get("", response_model=Page[JobSummary | JobAnswer], responses={304: {}})
async def list_jobs(  # noqa: PLR0917 - FastAPI passes them by name
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
    created_after: Moment = None,
    created_before: Moment = None,
    include: Annotated[
        Literal["spec"] | None,
        Query(
            description="`spec`: with `spec`, `resolved` and `preflight`. A page then ends before it has more than "
            "4 MiB of them."
        ),
    ] = None,
) -> Response:
    """List jobs, newest first. A job of a list has neither `spec`, `resolved` nor `preflight`, unless these are included."""
    filters = Filters(
        status=status,
        task=task,
        name=name,
        metadata=family(request, "metadata"),
        created_after=point_in_time("created_after", created_after),
        created_before=point_in_time("created_before", created_before),
    )

    def read(session: Session) -> Response:
        place = None if after is None else views.place(session, project, after)
        if after is not None and place is None:
            raise InvalidRequest("there is no such job in this project", param="after", code="job_not_found")
        found, has_more = views.jobs(session, project, limit=limit, filters=filters, after=place)
        whole = views.with_specs(session, found, limit_bytes=PAGE_BYTES) if include == "spec" else found
        page, tag = page_json(session, context.queue, whole, has_more=has_more or len(whole) < len(found))
        return tagged(request, page, tag)

    # What no single index answers may read many jobs.
    return await (context.read(read) if filters.is_selective() else context.read_in_thread(read))


@router.get("/{job_id}", response_model=JobAnswer, responses={304: {}, 404: {"model": Error}})
async def get(
    job_id: str,
    request: Request,
    streams: Streams,
    context: Context,
    project: ProjectId,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=LONGEST_WAIT_SECONDS,
            description="Seconds to wait for a change of the job: of that which `If-None-Match` names, or of the job as it is "
            "when the request comes. A job that has ended does not change.",
        ),
    ] = 0,
) -> Response:
    """Get a job. With `If-None-Match`, the response is 304 while the job is the same but for its seconds."""
    # Read before the answer, so that no change after the answer is missed.
    head = await context.read(lambda session: event_log.head(session, project, job_id)) if wait else None
    answer, tag = await context.read(_reading(context, project, job_id))
    known = request.headers.get("if-none-match")
    if head is not None and answer["status"] not in TERMINAL and (known is None or matches(known, tag)):
        await streams.growth(job_id, head.event_seq, wait)
        answer, tag = await context.read(_reading(context, project, job_id))
    return tagged(request, answer, tag)


@router.post("/{job_id}/cancel", response_model=JobAnswer, responses={404: {"model": Error}, 409: {"model": Error}})
def cancel(job_id: str, context: Context, project: ProjectId) -> Response:
    """Cancel a job. A running one saves a checkpoint and stops; poll until its status is `cancelled`."""
    _request(context, project, job_id, lifecycle.cancel, "only a job that has not ended can be cancelled")
    return _answer(context, project, job_id)


@router.post("/{job_id}/pause", response_model=JobAnswer, responses={404: {"model": Error}, 409: {"model": Error}})
def pause(job_id: str, context: Context, project: ProjectId) -> Response:
    """Pause a job. A running one saves a checkpoint and frees its slot; poll until its status is `paused`."""
    _request(context, project, job_id, lifecycle.pause, "only a queued or running job can be paused")
    return _answer(context, project, job_id)


@router.post("/{job_id}/resume", response_model=JobAnswer, responses={404: {"model": Error}, 409: {"model": Error}})
def resume(job_id: str, context: Context, project: ProjectId) -> Response:
    """Put a paused job back into the queue. It continues from its newest checkpoint."""
    job = _request(context, project, job_id, lifecycle.resume, "only a paused job can be resumed")
    context.entered(job.queue)
    return _answer(context, project, job_id)


@router.delete("/{job_id}", response_model=Deleted, responses={404: {"model": Error}, 409: {"model": Error}})
def delete(job_id: str, context: Context, project: ProjectId) -> Deleted:
    """Delete a job that has ended, with its events, logs, checkpoints and model. 409 while another job starts from it."""
    deletion.delete_job(context.database, context.storage, project, job_id)
    return Deleted(id=job_id, object="job")


@router.post("/{job_id}/pin", response_model=JobAnswer, responses={404: {"model": Error}})
def pin(job_id: str, context: Context, project: ProjectId) -> Response:
    """Keep a job and all that belongs to it from being removed by retention. DELETE …/pin undoes it."""
    with context.database.write() as session:
        deletion.pin(session, project, job_id, None, pinned=True)
    return _answer(context, project, job_id)


@router.delete("/{job_id}/pin", response_model=JobAnswer, responses={404: {"model": Error}})
def unpin(job_id: str, context: Context, project: ProjectId) -> Response:
    """Let retention remove what is old of a job."""
    with context.database.write() as session:
        deletion.pin(session, project, job_id, None, pinned=False)
    return _answer(context, project, job_id)


@router.post(
    "/{job_id}/retry",
    status_code=201,
    response_model=JobAnswer,
    responses={404: {"model": Error}, 409: {"model": Error}},
)
def retry(job_id: str, body: RetryBody, context: Context, access: KeyAccess) -> Response:
    """Create a new job from one that has ended: the same spec, from the start or from one of its checkpoints."""
    with context.database.write() as session:
        parent = job_of(queries.job(session, access.project_id, job_id))
        quotas.check_job(lambda: nullcontext(session), access, parent.priority)
        if parent.status not in TERMINAL:
            raise Conflict(
                f"this job is '{parent.status}'; only a job that has ended can be retried", code="job_not_ended"
            )
        start = _start(session, parent, body[0].from_checkpoint)
        checked = submission.find(session, parent, context.settings.models())
        child = checked.job(access.project_id, body_sha256=parent.body_sha256)
        child.parent_id = parent.id
        if start is not None:
            child.start_artifact_id, child.resolved = start.id, parent.resolved
        submission.create(session, checked, child)
    context.entered(child.queue)
    return _answer(context, access.project_id, child.id, status=201)


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
) -> Job:
    with context.database.write() as session:
        job = job_of(queries.job(session, project, job_id))
        if not request(session, job.id):
            session.refresh(job)
            code = "job_ended" if job.status in TERMINAL else "wrong_state"
            raise Conflict(f"this job is '{job.status}'; {otherwise}", code=code)
    context.queue.forget()
    return job


def job_of(job: Found | None) -> Found:
    """The job, or NotFound for None."""
    if job is None:
        raise NotFound("there is no such job in this project", param="job_id", code="job_not_found")
    return job


def _check(context: ServiceContext, project: str, spec: JobSpec) -> submission.CheckedSpec:
    return submission.check(
        context.database,
        context.copies,
        context.checks,
        project,
        spec,
        row_limit=context.settings.row_check_limit,
        models_dir=context.settings.models(),
    )


def _create(context: ServiceContext, access: Access, request: idempotency.Request, spec: JobSpec) -> tuple[Job, bool]:
    """The job of a request, and whether it is new."""
    if earlier := idempotency.earlier_job(context.database, request):
        return earlier, False
    quotas.check_job(context.database.read, access, spec.priority)
    return idempotency.create(context.database, request, _check(context, request.project_id, spec))


def _reading(context: ServiceContext, project: str, job_id: str) -> Callable[[Session], tuple[dict[str, Any], str]]:
    def read(session: Session) -> tuple[dict[str, Any], str]:
        return job_json(session, context.queue, job_of(views.job(session, project, job_id)))

    return read


def _answer(context: ServiceContext, project: str, job_id: str, *, status: int = 200) -> Response:
    answer, tag = context.read_here(_reading(context, project, job_id))
    return json_response(answer, status=status, headers={"etag": tag})
