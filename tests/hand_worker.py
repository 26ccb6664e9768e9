"""Does with a job what a worker would, by hand, for tests of what people see of it."""

from uuid import uuid4

from deployment import Deployment
from sqlalchemy import select, update

from app.db import Database
from app.identifiers import new_id
from app.jobs import lifecycle
from app.jobs.lifecycle import Lease
from app.jobs.tables import Artifact, Job


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
