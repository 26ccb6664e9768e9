"""What a job tells while it runs: its event log, metric series and text output."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.answers import Error, EventAnswer, Logs, Metrics, Page, Point
from app.api.dependencies import Parts, ProjectId
from app.api.jobs import job_of
from app.jobs import queries

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], responses={404: {"model": Error}})

LARGEST_ID = 2**62


@router.get("/events", response_model=Page[EventAnswer])
def events(
    job_id: str,
    parts: Parts,
    project: ProjectId,
    after: Annotated[int, Query(ge=0, le=LARGEST_ID, description="The last event id seen; 0 for the beginning.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries a page.")] = 100,
    type: Annotated[str | None, Query(max_length=20, description="Only events of this type.")] = None,  # noqa: A002 - its name in the API
) -> Page[EventAnswer]:
    """Read the job's log, oldest first. Ids count from 1 without gaps."""
    with parts.database.read() as session:
        job = job_of(queries.job(session, project, job_id))
        found, has_more = queries.events(session, job.id, after=after, limit=limit, kind=type)
        data = [
            EventAnswer(
                id=event.seq, type=event.type, attempt=event.attempt, data=event.data, created_at=event.created_at
            )
            for event in found
        ]
        return Page(data=data, has_more=has_more)


@router.get("/metrics", response_model=Metrics)
def metrics(job_id: str, parts: Parts, project: ProjectId) -> Metrics:
    """Metric series by name, as the Hugging Face Trainer names them."""
    with parts.database.read() as session:
        job = job_of(queries.job(session, project, job_id))
        found = queries.metric_events(session, job.id)
    series: dict[str, dict[int, Point]] = {}
    for data, attempt, time in found:
        for name, value in data["values"].items():
            if value is not None:
                point = Point(step=data["step"], epoch=data.get("epoch"), value=value, attempt=attempt, time=time)
                series.setdefault(name, {})[point.step] = point
    return Metrics(series={name: [points[step] for step in sorted(points)] for name, points in sorted(series.items())})


@router.get("/logs", response_model=Logs)
def logs(
    job_id: str,
    parts: Parts,
    project: ProjectId,
    attempt: Annotated[
        int | None, Query(ge=1, le=1_000_000, description="Which attempt; the newest that wrote anything without it.")
    ] = None,
    tail: Annotated[int, Query(ge=1, le=1_000_000, description="Characters from the end.")] = 20_000,
) -> Logs:
    """Read the end of what the training process wrote."""
    with parts.database.read() as session:
        job = job_of(queries.job(session, project, job_id))
        found, text = queries.log_tail(session, job.id, attempt=attempt, limit=tail)
    return Logs(attempt=found, text=text)
