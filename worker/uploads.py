"""Uploads checkpoints while training continues, and removes those that are no longer kept."""

import logging
import os
import shutil
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update

from app.db import DATABASE_AWAY, Database, now
from app.jobs import lifecycle, queries
from app.jobs.lifecycle import Lease, LostLease
from app.jobs.tables import Artifact
from app.storage import Storage, StorageError
from worker.artifacts import store_artifact
from worker.training.checkpoints.folders import read_manifest
from worker.training.errors import CheckpointBroken

log = logging.getLogger(__name__)

Record = dict[str, Any]
RETRY_SECONDS = 2.0


class CheckpointUploads:
    """Uploads in its own thread, so that a large checkpoint delays neither the lease nor a step.

    While the storage or the database is unreachable, only the `keep` newest waiting checkpoints and the best one are
    kept, because a full disk would end the training.
    """

    def __init__(self, database: Database, storage: Storage, lease: Lease, out_dir: Path, keep: int) -> None:
        self._database, self._storage, self._lease = database, storage, lease
        self._out_dir, self._keep = out_dir, keep
        self._waiting: deque[tuple[Path, Record]] = deque()
        self._changed = threading.Condition()
        self._no_more = False
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"uploads-{lease.job_id}", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Add a checkpoint that was just reported. Hard links keep its files when the original is rotated away."""
        source = self._out_dir / record["path"]
        kept = self._out_dir / "outbox" / source.name
        try:
            shutil.copytree(source, kept, copy_function=os.link, dirs_exist_ok=True)
        except OSError as error:
            log.warning(
                "job %s: %s is not uploaded, rotated away or without room: %s", self._lease.job_id, source.name, error
            )
            shutil.rmtree(kept, ignore_errors=True)
            return
        with self._changed:
            self._waiting.append((kept, record))
            for item in self._superseded():
                self._waiting.remove(item)
                shutil.rmtree(item[0], ignore_errors=True)
            self._changed.notify()

    def finish(self, patience: float) -> None:
        """Wait until all checkpoints are uploaded, or give up after `patience` seconds."""
        with self._changed:
            self._no_more = True
            self._changed.notify()
        self._thread.join(patience)
        self._give_up.set()
        self._thread.join()

    def _superseded(self) -> list[tuple[Path, Record]]:
        # Rotation would remove these checkpoints right after their upload.
        best = next((item for item in reversed(self._waiting) if item[1].get("is_best")), None)
        return [item for item in list(self._waiting)[: -self._keep] if item is not best]

    def _work(self) -> None:
        while (item := self._next()) is not None:
            folder, record = item
            try:
                self._upload_until_done(folder, record)
                rotate(self._database, self._storage, self._lease.job_id, self._keep)
            except LostLease:
                return
            except (StorageError, *DATABASE_AWAY) as error:
                log.warning("job %s: old checkpoints stay for now: %s", self._lease.job_id, error)
            except Exception:
                # One checkpoint that cannot be uploaded must not keep the next from being tried.
                log.exception("job %s: %s is not uploaded", self._lease.job_id, folder.name)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _next(self) -> tuple[Path, Record] | None:
        with self._changed:
            while not self._waiting and not self._no_more:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting and not self._give_up.is_set() else None

    def _upload_until_done(self, folder: Path, record: Record) -> None:
        started, artifact = time.monotonic(), None
        while not self._give_up.is_set():
            try:
                # Once the files are in storage, only the row is tried again.
                artifact = artifact or store_artifact(self._storage, self._lease, folder, "checkpoint", record)
                self._record(folder, artifact)
            except (StorageError, *DATABASE_AWAY) as error:
                log.warning("job %s: %s waits: %s", self._lease.job_id, folder.name, error)
                self._give_up.wait(RETRY_SECONDS)
            except CheckpointBroken as error:
                log.warning("job %s: %s is not uploaded: %s", self._lease.job_id, folder.name, error)
                return
            else:
                seconds = time.monotonic() - started
                log.info("job %s: %s uploaded in %.1f s", self._lease.job_id, folder.name, seconds)
                return

    def _record(self, folder: Path, artifact: Artifact) -> None:
        best_step = read_manifest(folder).facts.get("best_step")
        with self._database.write() as session:
            lifecycle.checkpoint(session, self._lease, artifact, best_step)


def rotate(database: Database, storage: Storage, job_id: str, keep: int) -> None:
    """Remove all checkpoints of a job except the `keep` newest steps and the best.

    Raises StorageError. They are hidden first, so that nobody is offered files that are being deleted. The row is
    deleted after its files, so that the next try finds what an earlier try left behind.
    """
    with database.read() as session:
        offered = queries.checkpoints(session, job_id)
    kept_steps = {item.step for item in offered[:keep]} | {item.step for item in offered if item.is_best}
    with database.write() as session:
        session.execute(
            update(Artifact)
            .where(Artifact.id.in_([item.id for item in offered if item.step not in kept_steps]))
            .values(deleted_at=now())
        )
    with database.read() as session:
        going = session.execute(
            select(Artifact.id, Artifact.prefix).where(Artifact.job_id == job_id, Artifact.deleted_at.is_not(None))
        ).all()
    for artifact_id, prefix in going:
        storage.delete_prefix(prefix)
        with database.write() as session:
            session.execute(delete(Artifact).where(Artifact.id == artifact_id))
