"""Adds and removes datasets. A dataset is visible only while all its files are in storage."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from app.datasets.inspect import InspectedFile, UnusableFile, UploadLimits, inspect
from app.datasets.queries import dataset_to_remove
from app.datasets.tables import Dataset
from app.datasets.upload import Received, ReceivedFile
from app.db import Database, now
from app.errors import Conflict, InvalidRequest, NotFound
from app.identifiers import new_id
from app.jobs import queries, quotas
from app.settings import Settings
from app.storage import Storage, StorageError

log = logging.getLogger(__name__)


def add(
    database: Database,
    storage: Storage,
    settings: Settings,
    project_id: str,
    received: Received,
    folder: Path,
    abandoned: Event,
) -> Dataset:
    """Inspect uploaded files and store them as one dataset; temporary files go into `folder`.

    Raises InvalidRequest with the row and column, StorageError, OSError when the disk is full, and UploadAbandoned once
    `abandoned` is set while the files are parsed. Then nothing is stored.
    """
    parquet = folder / "data.parquet"
    try:
        found = inspect(
            [(file.path, file.filename) for file in received.files],
            parquet,
            limits=_limits(settings),
            abandoned=abandoned,
        )
    except UnusableFile as error:
        details = {"row": error.row, "line": error.line, "column": error.column, "hint": error.hint}
        if len(received.files) > 1:
            details["file"] = error.file
        raise InvalidRequest(str(error), param="file", code=error.code, details=details) from None
    dataset_id = new_id("ds")
    prefix = f"datasets/{dataset_id}"
    files = _files(prefix, received.files, found.files)
    dataset = Dataset(
        id=dataset_id,
        project_id=project_id,
        name=received.name,
        filename=received.files[0].filename,
        format=found.format,
        bytes=received.size,
        sha256=received.sha256,
        rows=found.rows,
        columns=[asdict(column) for column in found.columns],
        files=files,
        source_path=files[0]["path"],
        parquet_path=f"{prefix}/data.parquet",
        deleted_at=now(),
    )
    # The hidden row is written first, so that the files are known if this process dies before the dataset is complete.
    with database.write() as session:
        quotas.check_dataset(session, project_id, received.size)
        session.add(dataset)
    try:
        for file, kept in zip(received.files, files, strict=True):
            storage.put_file(kept["path"], file.path)
        storage.put_file(dataset.parquet_path, parquet)
        _show(database, dataset)
    except BaseException:
        _withdraw(database, storage, dataset)
        raise
    return dataset


def remove(database: Database, storage: Storage, project_id: str, dataset_id: str) -> None:
    """Delete a dataset. Raises NotFound, Conflict while a queued or running job needs it, and StorageError.

    After a StorageError the dataset is gone, but perhaps not its files. Deleting it again removes them, and raises
    NotFound.
    """
    with database.write() as session:
        dataset = dataset_to_remove(session, project_id, dataset_id)
        if dataset is None:
            raise _not_found()
        was_there = dataset.deleted_at is None
        if was_there and (job_id := queries.job_that_needs(session, dataset_id)):
            raise Conflict(
                f"job {job_id} has not ended and needs this dataset; cancel it or wait", code="dataset_in_use"
            )
        session.execute(
            update(Dataset).where(Dataset.id == dataset_id, Dataset.deleted_at.is_(None)).values(deleted_at=now())
        )
    storage.delete_prefix(f"datasets/{dataset_id}")
    if not was_there:
        raise _not_found()


def _files(prefix: str, received: Sequence[ReceivedFile], found: Sequence[InspectedFile]) -> list[dict[str, Any]]:
    return [
        {
            "name": file.filename,
            "format": kind.format,
            "bytes": file.size,
            "sha256": file.sha256,
            "rows": kind.rows,
            # Never the user's file name: no part of a stored path comes from a request.
            "path": f"{prefix}/source{f'-{number}' if len(received) > 1 else ''}.{kind.format}"
            f"{'.gz' if kind.compressed else ''}",
        }
        for number, (file, kind) in enumerate(zip(received, found, strict=True), start=1)
    ]


def _show(database: Database, dataset: Dataset) -> None:
    with database.write() as session:
        session.execute(update(Dataset).where(Dataset.id == dataset.id).values(deleted_at=None))
    dataset.deleted_at = None


def _withdraw(database: Database, storage: Storage, dataset: Dataset) -> None:
    try:
        # It may already be visible if only the response to the last commit was lost.
        with database.write() as session:
            session.execute(update(Dataset).where(Dataset.id == dataset.id).values(deleted_at=now()))
        storage.delete_prefix(f"datasets/{dataset.id}")
    except (SQLAlchemyError, StorageError) as error:
        # The client must get the original error.
        log.warning("the files of %s stay until the next garbage collection: %s", dataset.id, error)


def _not_found() -> NotFound:
    return NotFound("there is no such dataset in this project", param="dataset_id", code="dataset_not_found")


def _limits(settings: Settings) -> UploadLimits:
    return UploadLimits(
        memory_bytes=settings.intake_memory_bytes,
        timeout_seconds=settings.intake_timeout_seconds,
        unpacked_bytes=settings.unpacked_limit_bytes,
    )
