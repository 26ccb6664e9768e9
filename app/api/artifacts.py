"""Checkpoints and models: manifest, single files with ranges, one tar stream."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import RedirectResponse, StreamingResponse

from app.api.answers import CheckpointAnswer, Deleted, Error, FileAnswer, Page
from app.api.context import Context, ProjectId, ServiceContext
from app.api.download import Download, StoredPart
from app.api.jobs import job_of
from app.api.json_answers import matches
from app.errors import NotFound, RangeNotSatisfiable
from app.http_ranges import Unsatisfiable, requested_range
from app.jobs import deletion, queries
from app.jobs.states import JobStatus
from app.jobs.tables import Artifact, Job
from app.tar_stream import tar_length, tar_parts

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["artifacts"], responses={404: {"model": Error}})

OCTETS = "application/octet-stream"
TAR = "application/x-tar"
SIGNED_SECONDS = 900
BYTES: dict[str, Any] = {
    "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    "description": "The bytes of the file.",
}

Step = Annotated[
    int | None,
    Query(alias="checkpoint", ge=0, le=2**62, description="The step of a checkpoint. Without it: the published model."),
]


CheckpointStep = Annotated[int, PathParameter(ge=0, le=2**62, description="The step of a checkpoint.")]


@router.get("/checkpoints", response_model=Page[CheckpointAnswer])
def checkpoints(job_id: str, context: Context, project: ProjectId) -> Page[CheckpointAnswer]:
    """List the checkpoints that can be downloaded, newest first."""
    with context.database.read() as session:
        job = job_of(queries.job(session, project, job_id))
        found = queries.checkpoints(session, job.id)
    return Page(data=[_checkpoint(job, item) for item in found])


@router.delete("/checkpoints/{step}", response_model=Deleted, responses={404: {"model": Error}, 409: {"model": Error}})
def delete_checkpoint(job_id: str, step: CheckpointStep, context: Context, project: ProjectId) -> Deleted:
    """Delete a checkpoint. 409 while the job runs, or while another job starts from the checkpoint."""
    deletion.delete_checkpoint(context.database, context.storage, project, job_id, step)
    return Deleted(id=f"{job_id}/checkpoints/{step}", object="checkpoint")


@router.post("/checkpoints/{step}/pin", response_model=CheckpointAnswer, responses={404: {"model": Error}})
def pin(job_id: str, step: CheckpointStep, context: Context, project: ProjectId) -> CheckpointAnswer:
    """Keep a checkpoint from being removed by retention. DELETE …/pin undoes it."""
    return _pin(context, project, job_id, step, pinned=True)


@router.delete("/checkpoints/{step}/pin", response_model=CheckpointAnswer, responses={404: {"model": Error}})
def unpin(job_id: str, step: CheckpointStep, context: Context, project: ProjectId) -> CheckpointAnswer:
    """Let retention remove a checkpoint once it is old."""
    return _pin(context, project, job_id, step, pinned=False)


@router.get("/artifacts", response_model=Page[FileAnswer])
def manifest(
    job_id: str, response: Response, context: Context, project: ProjectId, step: Step = None
) -> Page[FileAnswer]:
    """List the files of the published model, or of a checkpoint, with size and sha256."""
    _, artifact = _find(context, project, job_id, step)
    response.headers["etag"] = f'"{artifact.manifest_sha256}"'
    query = "" if step is None else f"?checkpoint={step}"
    return Page(
        data=[
            FileAnswer(
                path=file["path"],
                size=file["size"],
                sha256=file["sha256"],
                url=f"/v1/jobs/{job_id}/artifacts/{file['path']}{query}",
            )
            for file in artifact.files
        ]
    )


@router.get(
    "/artifacts/{path:path}",
    response_class=StreamingResponse,
    responses={
        200: BYTES,
        206: {**BYTES, "description": "The requested range."},
        307: {"description": "With `redirect`: the address of the file in the object store."},
        304: {"description": "The file has not changed since If-None-Match."},
        416: {"model": Error, "description": "No byte of the file is in the range; `content-range` has its size."},
    },
)
def file(
    job_id: str,
    path: str,
    request: Request,
    context: Context,
    project: ProjectId,
    step: Step = None,
    redirect: Annotated[
        bool,
        Query(
            description="Redirect to the object store, with an address that anyone can download from for 15 minutes. A service "
            "whose storage is a folder sends the file itself."
        ),
    ] = False,
) -> Response:
    """Download one file. Range, If-Range and If-None-Match are supported."""
    _, artifact = _find(context, project, job_id, step)
    # Only paths in the manifest exist. No path is ever built from the request.
    entry = next((item for item in artifact.files if item["path"] == path), None)
    if entry is None:
        raise NotFound("there is no such file; GET /artifacts lists them", param="path", code="file_not_found")
    size, etag = int(entry["size"]), f'"{entry["sha256"]}"'
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        "content-disposition": "attachment",
        "x-content-type-options": "nosniff",
    }
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, size, 200
    if (wanted := _wanted(request, size, etag)) is not None:
        start, end = wanted
        status = 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    if request.state.is_head:
        return Response(headers=headers, media_type=OCTETS)
    stored = f"{artifact.prefix}/{path}"
    if redirect and (url := context.storage.signed_url(stored, SIGNED_SECONDS)) is not None:
        return RedirectResponse(url, status_code=307, headers={"cache-control": "no-store"})
    parts = [StoredPart(stored, start, end)] if end > start else []
    return Download(context.storage, parts, status=status, headers=headers, media_type=OCTETS)


@router.get(
    "/archive",
    response_class=StreamingResponse,
    responses={
        200: {"content": {TAR: {"schema": {"type": "string", "format": "binary"}}}, "description": "A tar file."},
        304: {"description": "The archive has not changed since If-None-Match."},
    },
)
def archive(job_id: str, request: Request, context: Context, project: ProjectId, step: Step = None) -> Response:
    """Download all files as one uncompressed tar."""
    job, artifact = _find(context, project, job_id, step)
    etag = f'"{artifact.manifest_sha256}"'
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers={"etag": etag})
    folder = job.id if step is None else f"{job.id}-step-{step}"
    sizes = [(f"{folder}/{item['path']}", int(item["size"])) for item in artifact.files]

    def content(name: str, size: int) -> StoredPart:
        return StoredPart(f"{artifact.prefix}/{name.removeprefix(folder + '/')}", 0, size)

    headers = {
        "etag": etag,
        "content-length": str(tar_length(sizes)),
        "content-disposition": f'attachment; filename="{folder}.tar"',
    }
    if request.state.is_head:
        return Response(headers=headers, media_type=TAR)
    return Download(context.storage, tar_parts(sizes, content), headers=headers, media_type=TAR)


def _pin(context: ServiceContext, project: str, job_id: str, step: int, *, pinned: bool) -> CheckpointAnswer:
    with context.database.write() as session:
        deletion.pin(session, project, job_id, step, pinned=pinned)
        job = job_of(queries.job(session, project, job_id))
        found = queries.artifact(session, job, step)
        if found is None:
            raise NotFound("this job has no such checkpoint", param="step", code="checkpoint_not_found")
        session.refresh(found)
        return _checkpoint(job, found)


def _find(context: ServiceContext, project: str, job_id: str, step: int | None) -> tuple[Job, Artifact]:
    with context.database.read() as session:
        job = job_of(queries.job(session, project, job_id))
        artifact = queries.artifact(session, job, step)
    if artifact is not None:
        return job, artifact
    if step is not None:
        raise NotFound(
            f"there is no checkpoint at step {step}; GET /v1/jobs/{job_id}/checkpoints lists them",
            param="checkpoint",
            code="checkpoint_not_found",
        )
    state = (
        "it has not finished" if job.status in (JobStatus.QUEUED, JobStatus.RUNNING) else f"it ended as '{job.status}'"
    )
    raise NotFound(
        f"this job has published no model: {state}; ?checkpoint=STEP gives an earlier checkpoint",
        code="model_not_published",
    )


def _wanted(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    # Ranges apply only to GET, and only to the version that If-Range names.
    if request.state.is_head or request.headers.get("if-range", etag) != etag:
        return None
    wanted = requested_range(request.headers.get("range"), size)
    if isinstance(wanted, Unsatisfiable):
        raise RangeNotSatisfiable(size)
    return wanted


def _checkpoint(job: Job, artifact: Artifact) -> CheckpointAnswer:
    fields: dict[str, Any] = {
        name: getattr(artifact, name) for name in ("step", "epoch", "attempt", "is_best", "metrics", "created_at")
    }
    total = sum(int(item["size"]) for item in artifact.files)
    return CheckpointAnswer(
        **fields,
        bytes=total,
        pinned=artifact.pinned_at is not None,
        archive=f"/v1/jobs/{job.id}/archive?checkpoint={artifact.step}",
    )
