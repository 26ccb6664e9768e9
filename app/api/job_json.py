"""A job as clients see it (`app.api.answers.JobAnswer`), without reading and writing again what is JSON already."""

from typing import Any

from sqlalchemy.orm import Session

from app.api.answers import JobError, JobLinks, JobSummary, Progress
from app.api.json_answers import fragment, page_of, tag_of, time_text
from app.jobs.queue_cache import QueueCache
from app.jobs.states import TERMINAL
from app.jobs.usage import usage
from app.jobs.views import JobView

AS_STORED = frozenset(JobSummary.model_fields) & frozenset(JobView._fields) - {
    "progress",
    "error",
    "queued_seconds",
    "running_seconds",
    "gpu_seconds",
}
TIMES = frozenset({"created_at", "first_started_at", "started_at", "finished_at"})
PLAIN = tuple(sorted(AS_STORED - TIMES))
LINKS = tuple(part for part in JobLinks.model_fields if part != "self")


def job_json(session: Session, queue: QueueCache, job: JobView) -> tuple[dict[str, Any], str]:
    """One job as JSON, and its ETag."""
    waiting_for = queue.waiting_for(session, job)
    lasting = {**summary_json(session, queue, job), **_specs(job)}
    # The seconds until the next attempt are no change.
    reason = "next attempt" if job.available_at > job.at else waiting_for
    return {**lasting, "waiting_for": waiting_for, **_seconds(job)}, tag_of([lasting, reason])


def summary_json(session: Session, queue: QueueCache, job: JobView) -> dict[str, Any]:
    """What a list has of a job, without the seconds that change while the job waits and runs."""
    base = f"/v1/jobs/{job.id}"
    return {
        "object": "job",
        **{name: getattr(job, name) for name in PLAIN},
        **{name: time_text(getattr(job, name)) for name in TIMES},
        "metadata": fragment(job.metadata_json),
        "cancel_requested": job.cancel_requested_at is not None,
        "pause_requested": job.pause_requested_at is not None and job.status not in TERMINAL,
        "pinned": job.pinned_at is not None,
        "queue_position": queue.position(session, job),
        "waiting_for": None,
        "progress": None if job.progress is None else {**NO_PROGRESS, **job.progress},
        "metrics": fragment(job.metrics_json or "{}"),
        "error": None if job.error is None else {**NO_ERROR, **job.error},
        "links": {"self": base, **{part: f"{base}/{part}" for part in LINKS}},
    }


def page_json(
    session: Session, queue: QueueCache, jobs: list[JobView], *, has_more: bool
) -> tuple[dict[str, Any], str]:
    """A page of jobs, with their specs where these were read, and its ETag."""
    lasting = [{**summary_json(session, queue, job), **({} if job.spec_json is None else _specs(job))} for job in jobs]
    page = [{**parts, **_seconds(job)} for parts, job in zip(lasting, jobs, strict=True)]
    return page_of(page, has_more=has_more), tag_of(page_of(lasting, has_more=has_more))


def _specs(job: JobView) -> dict[str, Any]:
    return {
        "spec": fragment(job.spec_json),
        "resolved": fragment(job.resolved_json),
        "preflight": fragment(job.preflight_json),
    }


def _seconds(job: JobView) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in usage(job, job.at)._asdict().items()}


def _defaults(model: type[Progress | JobError]) -> dict[str, Any]:
    return {name: field.default for name, field in model.model_fields.items() if not field.is_required()}


NO_PROGRESS, NO_ERROR = _defaults(Progress), _defaults(JobError)
"""The fields that services of earlier versions have not stored."""
