"""Checkpoints and models in storage.

All files are uploaded first, then the manifest, and only then a row is written.
"""

import errno
import logging
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import update

from app.db import Database, now
from app.identifiers import new_id
from app.jobs import queries
from app.jobs.lifecycle import Lease
from app.jobs.tables import Artifact
from app.storage import ObjectNotFound, Storage
from worker.training.checkpoints.folders import MANIFEST, Manifest, verify, verify_sizes
from worker.training.errors import CheckpointBroken

log = logging.getLogger(__name__)

Record = dict[str, Any]
RETRY_SECONDS = 2.0


def store_artifact(storage: Storage, lease: Lease, folder: Path, kind: str, record: Record) -> Artifact:
    """Upload all files of a folder's manifest under the attempt's own prefix, and verify them on the way.

    Returns the row that records the artifact. Raises CheckpointBroken, StorageError.
    """
    manifest = verify_sizes(folder)
    prefix = f"jobs/{lease.job_id}/a{lease.attempt}/{folder.name}"
    for file in manifest.files:
        stored = storage.put_file(f"{prefix}/{file.path}", folder / file.path)
        if stored.sha256 != file.sha256:
            raise CheckpointBroken(f"{folder.name}: the bytes of {file.path} are not those of its manifest")
    storage.put_file(f"{prefix}/{MANIFEST}", folder / MANIFEST)
    return Artifact(
        id=new_id("art"),
        job_id=lease.job_id,
        attempt=lease.attempt,
        kind=kind,
        step=manifest.step,
        epoch=record.get("epoch"),
        is_best=False,
        metrics=record.get("metrics") or {},
        prefix=prefix,
        files=[{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files],
        manifest_sha256=sha256((folder / MANIFEST).read_bytes()).hexdigest(),
    )


def newest_checkpoint(database: Database, storage: Storage, job_id: str, target: Path) -> Path | None:
    """Fetch the newest checkpoint of any attempt whose stored files verify; older ones are tried in turn.

    Raises StorageError, and OSError if this machine's disk fails. No checkpoint is discarded then.
    """
    with database.read() as session:
        candidates = queries.checkpoints(session, job_id)
    for artifact in candidates:
        folder = fetch_checkpoint(database, storage, artifact, target)
        if folder is not None:
            return folder
        # Rotation counts the visible checkpoints. A broken one would be kept instead of a good one.
        with database.write() as session:
            session.execute(update(Artifact).where(Artifact.id == artifact.id).values(deleted_at=now()))
    return None


def fetch_checkpoint(database: Database, storage: Storage, artifact: Artifact, target: Path) -> Path | None:
    """Fetch a checkpoint, and next to it the best checkpoint that it names. None if its stored files do not verify.

    Raises StorageError, and OSError if this machine's disk fails.
    """
    found = _fetch_verified(storage, artifact, target)
    if found is None:
        return None
    best_step = found.facts.get("best_step")
    with database.read() as session:
        known = queries.checkpoints(session, artifact.job_id)
    # If several attempts saved the best step, their models are the same, so any complete checkpoint is sufficient.
    others = (item for item in known if item.step == best_step and item.step != artifact.step)
    next((item for item in others if _fetch_verified(storage, item, target)), None)
    return target / _name(artifact)


def _fetch_verified(storage: Storage, artifact: Artifact, target: Path) -> Manifest | None:
    folder = target / _name(artifact)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        fetch(storage, artifact, folder)
    except (CheckpointBroken, ObjectNotFound) as error:
        log.warning("job %s: the checkpoint of step %s is skipped: %s", artifact.job_id, artifact.step, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    try:
        return verify(folder)
    except CheckpointBroken as error:
        # The stored bytes are correct, so the fault is on this machine.
        raise OSError(errno.EIO, f"the copy of a stored checkpoint is damaged: {error}", str(folder)) from error


def _name(artifact: Artifact) -> str:
    return artifact.prefix.rsplit("/", 1)[-1]


def fetch(storage: Storage, artifact: Artifact, folder: Path) -> None:
    """Download all files of an artifact, its manifest included.

    Raises StorageError, and CheckpointBroken if the stored bytes are not those that were published.
    """
    published = {str(file["path"]): str(file["sha256"]) for file in artifact.files}
    for path, expected in {**published, MANIFEST: artifact.manifest_sha256}.items():
        target, stored = folder / path, sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for chunk in storage.read(f"{artifact.prefix}/{path}"):
                stored.update(chunk)
                file.write(chunk)
        if stored.hexdigest() != expected:
            raise CheckpointBroken(f"{artifact.prefix}: the stored bytes of {path} are not those that were published")
