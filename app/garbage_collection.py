"""Removes files from the storage that dead processes left there, and nothing that may still be needed.

A folder of a job is needed while a row of `artifacts` names it, and while its job runs the attempt that writes it. An
attempt that is over never runs again, so no row will ever refer to files that it did not record. Objects of jobs and
datasets that the
database does not know are never touched: the service may be connected to the wrong database.
"""

import logging
import re
import threading
from collections.abc import Collection, Iterator

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import retention
from app.datasets.tables import Dataset
from app.db import Database, now
from app.jobs import deletion
from app.jobs.states import JobStatus
from app.jobs.tables import Artifact, Job
from app.settings import Settings
from app.storage import Storage, StorageError
from app.turns import COLLECT_GARBAGE, take_turn

log = logging.getLogger(__name__)

LEFT_BEHIND_SECONDS = 24 * 3600.0
"""Nobody still works on something that was started or hidden longer ago than this."""
BATCH = 500
ATTEMPT_FOLDER = re.compile(r"(jobs/(?P<job>[^/]+)/a(?P<attempt>[0-9]+)/[^/]+)/.+")
DATASET_FOLDER = re.compile(r"(datasets/(?P<dataset>[^/]+))/.+")


def collect(database: Database, storage: Storage) -> int:
    """Remove the folders that nobody needs; returns their number.

    Raises StorageError. These are: uploads of workers that died, files of attempts that had lost their job, artifacts
    that were hidden from users but not yet removed, and parts of datasets whose API process died.
    """
    removed = 0
    # Listed before the rows are read, so that anything recorded meanwhile counts as needed.
    for batch in _batches(_folders(storage, "jobs", ATTEMPT_FOLDER)):
        with database.read() as session:
            unneeded = _unneeded_attempt_folders(session, batch)
        removed += _remove(storage, unneeded)
    for batch in _batches(_folders(storage, "datasets", DATASET_FOLDER)):
        with database.read() as session:
            unneeded = _unneeded_dataset_folders(session, batch)
        removed += _remove(storage, unneeded)
    return removed + _remove_hidden(database, storage) + _purge(database, storage)


class GarbageCollector(threading.Thread):
    """Collects every `interval` seconds, unless another process has just done so. A pass may take long, and nothing waits for it."""

    def __init__(self, database: Database, storage: Storage, settings: Settings) -> None:
        super().__init__(name="garbage-collector", daemon=True)
        self._database, self._storage, self._settings = database, storage, settings
        self._interval = settings.upkeep_seconds
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Collect until stopped. If the database or the storage does not answer, the next pass tries again."""
        while not self._stop_asked.wait(self._interval):
            try:
                with self._database.write() as session:
                    has_turn = take_turn(session, COLLECT_GARBAGE, self._interval)
                if not has_turn:
                    continue
                removed = collect(self._database, self._storage) + self._expire()
                removed += self._storage.sweep_temporary(LEFT_BEHIND_SECONDS)
                if removed:
                    log.info("%s folders and files that nobody needs were removed from the storage", removed)
            except (StorageError, SQLAlchemyError) as error:
                log.warning("garbage collection failed: %s", error)
            except Exception:
                # The cause may be gone in the next round. Without further rounds, nothing would ever be removed.
                log.exception("garbage collection failed")

    def _expire(self) -> int:
        with self._database.read() as session:
            expired = retention.expired(session, self._settings)
        return sum(retention.remove(self._database, self._storage, item) for item in expired)

    def stop(self) -> None:
        """End the thread after its current step. Removals may be interrupted at any point, so nobody waits for them."""
        self._stop_asked.set()


def _folders(storage: Storage, top: str, shape: re.Pattern[str]) -> dict[str, re.Match[str]]:
    found = (shape.fullmatch(path) for path in storage.list(top))
    return {match[1]: match for match in found if match is not None}


def _batches(folders: dict[str, re.Match[str]]) -> Iterator[list[re.Match[str]]]:
    matches = list(folders.values())
    return (matches[start : start + BATCH] for start in range(0, len(matches), BATCH))


def _unneeded_attempt_folders(session: Session, folders: list[re.Match[str]]) -> list[str]:
    ids = {folder["job"] for folder in folders}
    jobs = {job.id: job for job in session.execute(select(Job.id, Job.status, Job.attempt).where(Job.id.in_(ids)))}
    named = set(session.scalars(select(Artifact.prefix).where(Artifact.job_id.in_(ids))))
    return [
        folder[1]
        for folder in folders
        if folder[1] not in named
        and (job := jobs.get(folder["job"])) is not None
        and not (job.status == JobStatus.RUNNING and job.attempt == int(folder["attempt"]))
    ]


def _unneeded_dataset_folders(session: Session, folders: list[re.Match[str]]) -> list[str]:
    ids = {folder["dataset"] for folder in folders}
    long_gone = set(
        session.scalars(select(Dataset.id).where(Dataset.id.in_(ids), Dataset.deleted_at < now() - LEFT_BEHIND_SECONDS))
    )
    return [folder[1] for folder in folders if folder["dataset"] in long_gone]


def _remove(storage: Storage, folders: Collection[str]) -> int:
    return sum(_removed(storage, folder) for folder in folders)


def _removed(storage: Storage, folder: str) -> bool:
    try:
        storage.delete_prefix(folder)
    except StorageError as error:
        # One folder that cannot be removed must not block the others forever.
        log.warning("%s was left behind and cannot be removed: %s", folder, error)
        return False
    log.info("%s was left behind and is removed", folder)
    return True


def _purge(database: Database, storage: Storage) -> int:
    # The process that hid a job removes it a moment later, unless it died in between.
    with database.read() as session:
        jobs = deletion.unpurged(session)
    return sum(_purged(database, storage, job_id) for job_id in jobs)


def _purged(database: Database, storage: Storage, job_id: str) -> bool:
    try:
        deletion.purge(database, storage, job_id)
    except StorageError as error:
        # One job that cannot be removed must not block the others forever.
        log.warning("the files of the deleted job %s cannot be removed: %s", job_id, error)
        return False
    return True


def _remove_hidden(database: Database, storage: Storage) -> int:
    # The process that hid a checkpoint removes it a moment later, unless it died in between.
    with database.read() as session:
        hidden = session.execute(
            select(Artifact.id, Artifact.prefix).where(Artifact.deleted_at < now() - LEFT_BEHIND_SECONDS)
        ).all()
    gone = [artifact_id for artifact_id, prefix in hidden if _removed(storage, prefix)]
    for artifact_id in gone:
        with database.write() as session:
            session.execute(delete(Artifact).where(Artifact.id == artifact_id))
    return len(gone)
