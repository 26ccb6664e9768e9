"""The position of a queued job, and why it does not run yet."""

from collections.abc import Sequence

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from app.db import now
from app.jobs.matching import described, least_missing, missing_features, runs_job
from app.jobs.states import JobStatus
from app.jobs.tables import Event, Job
from app.specs.features import engine_feature
from app.workers import queries as workers
from app.workers.tables import Worker

POSITIONS = 1000


def queue_positions(session: Session, queues: Sequence[str]) -> dict[str, int]:
    """Job id to how many jobs would be claimed before it, of the first thousand that wait in these queues."""
    other = aliased(Job)
    running = (
        select(func.count())
        .where(other.project_id == Job.project_id, other.status == JobStatus.RUNNING)
        .correlate(Job)
        .scalar_subquery()
    )
    waiting = (
        select(Job.id)
        .where(Job.status == JobStatus.QUEUED, Job.queue.in_(queues))
        .order_by(Job.priority.desc(), running, Job.queued_at, Job.id)
        .limit(POSITIONS)
    )
    return {job_id: place for place, job_id in enumerate(session.scalars(waiting))}


def waiting_for(session: Session, job: Job, *, silent_for: float) -> str | None:
    """Why a queued job does not run yet, in words; None unless it is queued."""
    if job.status != JobStatus.QUEUED:
        return None
    if wait := session.scalar(select(Job.available_at - now()).where(Job.id == job.id, Job.available_at > now())):
        retrying = f"retrying after {job.error['code']}: " if job.error else ""
        return f"{retrying}the next attempt begins in {wait:.0f} s"
    alive = workers.alive(session, silent_for=silent_for)
    knowing = [worker for worker in alive if not missing_features(job, worker)]
    able = _of_queue(job.queue, knowing)
    if able:
        return _waiting_for_capacity(session, job.queue, able)
    if not alive:
        return "no worker is alive"
    if not knowing:
        return f"no live worker {described(least_missing(job, alive))}"
    return "no live worker offers a GPU" if job.queue == "gpu" else "all live workers take only jobs that need a GPU"


def _of_queue(queue: str, alive: Sequence[Worker]) -> Sequence[Worker]:
    with_gpu = [worker for worker in alive if "gpu" in worker.queues.split(",")]
    if queue == "any":
        # Only workers with a GPU run such a job while one of them is alive.
        return with_gpu or alive
    return with_gpu if queue == "gpu" else [worker for worker in alive if "cpu" in worker.queues.split(",")]


def _waiting_for_capacity(session: Session, queue: str, able: Sequence[Worker]) -> str:
    running = select(Job.owner, func.count(), func.sum(Job.gpus)).where(
        Job.status == JobStatus.RUNNING, Job.owner.in_(worker.id for worker in able)
    )
    in_use = {owner: (slots, gpus) for owner, slots, gpus in session.execute(running.group_by(Job.owner))}
    with_slot = [worker for worker in able if in_use.get(worker.id, (0, 0))[0] < worker.slots]
    if not with_slot:
        slots = sum(worker.slots for worker in able)
        return f"all slots of the live workers that can run it are busy ({slots} on {_workers(able)})"
    # A job that may use a GPU takes one on a GPU worker. On a CPU worker it needs none.
    needs_gpu = queue != "cpu" and "gpu" in with_slot[0].queues.split(",")
    if not needs_gpu or any(in_use.get(worker.id, (0, 0))[1] < _gpus(worker) for worker in with_slot):
        return "a worker is about to take it"
    return f"all GPUs of the live workers with a free slot are busy ({sum(map(_gpus, with_slot))} on {_workers(with_slot)})"


def _workers(workers: Sequence[Worker]) -> str:
    return f"{len(workers)} worker{'' if len(workers) == 1 else 's'}"


def _gpus(worker: Worker) -> int:
    return len(worker.hardware["gpus"])


def without_worker(session: Session, *, waited: float) -> Sequence[tuple[Job, list[str]]]:
    """Up to a hundred queued jobs that no worker of the last `waited` seconds can run and that have no note about it.

    Each comes with the features that the closest worker does not know, or with all its features if there was no worker.
    """
    heard = Worker.last_seen_at > now() - waited
    has_note = exists().where(
        Event.job_id == Job.id, Event.type == "note", Event.data["engine"].as_string() == Job.engine
    )
    found = session.scalars(
        select(Job)
        .where(
            Job.status == JobStatus.QUEUED,
            Job.available_at < now() - waited,
            ~exists().where(heard, runs_job()),
            ~has_note,
        )
        .limit(100)
    ).all()
    known = session.scalars(select(Worker).where(heard)).all()
    return [(job, least_missing(job, known) or job.features or [engine_feature(job.engine)]) for job in found]
