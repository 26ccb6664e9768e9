"""Why a queued job does not run yet."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.lifecycle.heads import status_is, waiting_kinds
from app.jobs.matching import described, known_to, least_missing, missing_features
from app.jobs.states import JobStatus
from app.jobs.tables import Event, Job
from app.jobs.views import JobView
from app.specs.features import engine_feature
from app.workers import queries as workers
from app.workers.tables import Worker


class Fleet(NamedTuple):
    """The live workers and what they do."""

    alive: Sequence[Worker]
    in_use: Mapping[str, tuple[int, int]]
    """Worker to how many of its slots and GPUs are busy, where there are any."""


def fleet(session: Session, *, silent_for: float) -> Fleet:
    """The workers that were heard within `silent_for` seconds, and what they run."""
    alive = workers.alive(session, silent_for=silent_for)
    running = select(Job.owner, func.count(), func.sum(Job.gpus)).where(status_is(Job, JobStatus.RUNNING))
    in_use = {owner or "": (slots, gpus) for owner, slots, gpus in session.execute(running.group_by(Job.owner))}
    return Fleet(alive, in_use)


def waiting_for(job: JobView, fleet: Fleet) -> str | None:
    """Why a queued job does not run yet, in words; None unless it is queued."""
    if job.status != JobStatus.QUEUED:
        return None
    if job.available_at > job.at:
        retrying = f"retrying after {job.error['code']}: " if job.error else ""
        return f"{retrying}the next attempt begins in {job.available_at - job.at:.0f} s"
    knowing = [worker for worker in fleet.alive if not missing_features(job, known_to(worker))]
    able = _of_queue(job.queue, knowing)
    if able:
        return _waiting_for_capacity(job.queue, able, fleet.in_use)
    if not fleet.alive:
        return "no worker is alive"
    if not knowing:
        return f"no live worker {described(least_missing(job, map(known_to, fleet.alive)))}"
    return "no live worker offers a GPU" if job.queue == "gpu" else "all live workers take only jobs that need a GPU"


def _of_queue(queue: str, alive: Sequence[Worker]) -> Sequence[Worker]:
    with_gpu = [worker for worker in alive if "gpu" in worker.queues.split(",")]
    if queue == "any":
        # Only workers with a GPU run such a job while one of them is alive.
        return with_gpu or alive
    return with_gpu if queue == "gpu" else [worker for worker in alive if "cpu" in worker.queues.split(",")]


def _waiting_for_capacity(queue: str, able: Sequence[Worker], in_use: Mapping[str, tuple[int, int]]) -> str:
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
    known = [known_to(worker) for worker in session.scalars(select(Worker).where(Worker.last_seen_at > now() - waited))]
    kinds = waiting_kinds(session)
    unmet = [kind.needs for kind in kinds if all(missing_features(kind, worker) for worker in known)]
    if not unmet:
        return []
    has_note = exists().where(
        Event.job_id == Job.id, Event.type == "note", Event.data["engine"].as_string() == Job.engine
    )
    found = session.scalars(
        select(Job)
        .where(
            status_is(Job, JobStatus.QUEUED),
            Job.needs.in_(unmet),
            Job.available_at < now() - waited,
            ~has_note,
        )
        .limit(100)
    ).all()
    return [(job, least_missing(job, known) or job.features or [engine_feature(job.engine)]) for job in found]
