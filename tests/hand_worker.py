"""Does with a job what a worker would, by hand, for tests of what people see of it."""

from typing import Any
from uuid import uuid4

from deployment import Deployment
from sqlalchemy import select, update
from tiny import spec

from app.db import Database
from app.identifiers import new_id
from app.jobs import lifecycle
from app.jobs.decision import RetryPolicy
from app.jobs.lifecycle import Lease
from app.jobs.outcomes import Succeeded
from app.jobs.tables import Artifact, Job
from app.settings import Settings


def claim(service: Deployment, job_id: str) -> tuple[Database, Lease]:
    """Claim just this queued job; the caller closes the database."""
    database = Database(service.database_url)
    queue = uuid4().hex[:20]
    with database.write() as session:
        # What the job needs follows from its queue, and the claim computes it where it is missing.
        session.execute(update(Job).where(Job.id == job_id).values(queue=queue, needs=None))
        features = session.scalars(select(Job.features).where(Job.id == job_id)).one()
        job = lifecycle.claim(session, "tester", (queue,), 600, features)
    assert job is not None
    return database, Lease(job.id, job.attempt, "tester")


def checkpoint(lease: Lease, step: int) -> Artifact:
    """The row of a checkpoint without files."""
    return Artifact(
        id=new_id("art"), job_id=lease.job_id, attempt=lease.attempt, kind="checkpoint", step=step, epoch=1.0, is_best=False,
        metrics={}, prefix=f"jobs/{lease.job_id}/{step}", files=[], manifest_sha256="0" * 64,
    )  # fmt: skip


def publish_model(service: Deployment, files: dict[str, int], **parts: Any) -> str:
    """A job that has succeeded, whose model has files of these sizes, all of zeros. Returns its id."""
    job_id: str = service.client.post("/v1/jobs", spec(**parts))["id"]
    database, lease = claim(service, job_id)
    storage = service.open_storage()
    prefix = f"jobs/{job_id}/a{lease.attempt}/model"
    listed: list[dict[str, object]] = []
    for name, size in files.items():
        stored = storage.put(f"{prefix}/{name}", (bytes(1 << 20) for _ in range(size >> 20)))
        listed.append({"path": name, "size": stored.size, "sha256": stored.sha256})
    model = Artifact(
        id=new_id("art"), job_id=job_id, attempt=lease.attempt, kind="model", step=1, epoch=1.0, is_best=False,
        metrics={}, prefix=prefix, files=listed, manifest_sha256="0" * 64,
    )  # fmt: skip
    policy = RetryPolicy.of(Settings())
    with database.write() as session:
        lifecycle.conclude(session, lease, Succeeded(model, {}), policy)
    database.close()
    return job_id
