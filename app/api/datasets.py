"""Upload, read and delete datasets."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.api.answers import DatasetAnswer, Deleted, Error, Page
from app.api.context import Context, ProjectId, ServiceContext
from app.api.disconnects import departure
from app.api.parameters import Limit
from app.datasets import changes, queries
from app.datasets.errors import UploadAbandoned
from app.datasets.form import FILE_LIMIT, NAME_LIMIT
from app.datasets.preview import preview
from app.datasets.tables import Dataset
from app.datasets.upload import receive
from app.errors import NotFound
from app.specs.suspicions import header_warnings
from app.workspaces import workspace

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

UPLOADS = "uploads"
"""The folder of the cache where uploads are received and parsed."""

UPLOAD_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": FILE_LIMIT,
                            "items": {"type": "string", "format": "binary"},
                            "description": "csv, tsv, json, jsonl or parquet, plain or .gz; one part for each file",
                        },
                        "name": {
                            "type": "string",
                            "maxLength": NAME_LIMIT,
                            "description": "A name for the dataset",
                        },
                    },
                },
                "encoding": {"file": {"contentType": "text/csv, application/x-ndjson, application/vnd.apache.parquet"}},
            }
        },
    }
}


@router.post(
    "",
    status_code=201,
    response_model=DatasetAnswer,
    openapi_extra=UPLOAD_FORM,
    responses={413: {"model": Error}, 422: {"model": Error}, 507: {"model": Error}},
)
async def upload(request: Request, context: Context, project: ProjectId) -> DatasetAnswer:
    """Upload a file, or several files with the same columns, as one dataset.

    The response comes after the dataset was inspected and found usable.
    """
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdigit() else None
    with workspace(context.settings.cache() / UPLOADS) as folder:
        received = await receive(
            request.stream(),
            request.headers.get("content-type", ""),
            length,
            folder,
            context.settings.upload_limit_bytes,
        )
        async with departure(request) as left, context.intake.of(project):
            try:
                dataset = await run_in_threadpool(
                    changes.add, context.database, context.storage, context.settings, project, received, folder, left
                )
            except UploadAbandoned:
                raise ClientDisconnect from None
    return _answer(dataset)


@router.get("", response_model=Page[DatasetAnswer])
def list_datasets(
    context: Context,
    project: ProjectId,
    limit: Limit = 20,
    after: Annotated[str | None, Query(max_length=40, description="The last id of the previous page.")] = None,
) -> Page[DatasetAnswer]:
    """List datasets, newest first."""
    with context.database.read() as session:
        found, has_more = queries.datasets(session, project, limit=limit, after=after)
    return Page(data=[_answer(dataset) for dataset in found], has_more=has_more)


@router.get("/{dataset_id}", response_model=DatasetAnswer, responses={404: {"model": Error}})
def get(dataset_id: str, context: Context, project: ProjectId) -> DatasetAnswer:
    """Get a dataset: columns, types and counts."""
    return _answer(_find(context, project, dataset_id))


@router.get("/{dataset_id}/rows", response_model=Page[dict[str, Any]], responses={404: {"model": Error}})
def rows(
    dataset_id: str,
    context: Context,
    project: ProjectId,
    start: Annotated[int, Query(ge=0, le=2**62, description="The first row, from 0.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100, description="Rows per page.")] = 10,
) -> Page[dict[str, Any]]:
    """Preview rows.

    `_line` is the line of each row in the uploaded file, and `_file` the name of that file if there are several.
    """
    dataset = _find(context, project, dataset_id)
    found = preview(context.copies.parquet(dataset), start, limit)
    return Page(data=found, has_more=start + len(found) < dataset.rows)


@router.delete("/{dataset_id}", response_model=Deleted, responses={404: {"model": Error}, 409: {"model": Error}})
def delete(dataset_id: str, context: Context, project: ProjectId) -> Deleted:
    """Delete a dataset. 409 while a job that has not ended needs it."""
    changes.remove(context.database, context.storage, project, dataset_id)
    context.copies.forget(dataset_id)
    return Deleted(id=dataset_id, object="dataset")


def _find(context: ServiceContext, project: str, dataset_id: str) -> Dataset:
    with context.database.read() as session:
        dataset = queries.dataset(session, project, dataset_id)
    if dataset is None:
        raise NotFound("there is no such dataset in this project", param="dataset_id", code="dataset_not_found")
    return dataset


def _answer(dataset: Dataset) -> DatasetAnswer:
    names = ("id", "name", "filename", "bytes", "sha256", "rows", "columns", "created_at")
    fields = {name: getattr(dataset, name) for name in names}
    files = dataset.files or [
        {
            "name": dataset.filename,
            "format": dataset.format,
            "bytes": dataset.bytes,
            "sha256": dataset.sha256,
            "rows": dataset.rows,
        }
    ]
    warnings = header_warnings(column["name"] for column in dataset.columns)
    return DatasetAnswer.model_validate({**fields, "type": dataset.format, "files": files, "warnings": warnings})
