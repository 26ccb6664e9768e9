"""What a job reports while it runs: its event log, metric series and text output."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.api.answers import Error, EventAnswer, Logs, Metrics, Page, Point
from app.api.context import Context, ProjectId, ServiceContext, Streams
from app.api.jobs import job_of
from app.api.stream import Feed, event_answer
from app.errors import InvalidRequest, Unavailable
from app.jobs import queries
from app.jobs.events import EventType
from app.jobs.states import TERMINAL

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], responses={404: {"model": Error}})

LARGEST_ID = 2**62
TYPE_FILTER = f"Only events of this type: {', '.join(EventType)}."


@router.get(
    "/events",
    response_model=Page[EventAnswer],
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "A page of the log, or the stream."},
        204: {},
    },
)
def events(  # noqa: PLR0917 - FastAPI passes them by name
    job_id: str,
    request: Request,
    streams: Streams,
    context: Context,
    project: ProjectId,
    after: Annotated[
        int, Query(ge=0, le=LARGEST_ID, description="The last event id that was seen; 0 for the beginning.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries per page.")] = 100,
    type: Annotated[str | None, Query(max_length=20, description=TYPE_FILTER)] = None,  # noqa: A002 - its name in the API
    last_event_id: Annotated[str | None, Header(description="Where a stream continues; overrides `after`.")] = None,
) -> Page[EventAnswer] | Response:
    """Read the job's log, oldest first. Ids count from 1 without gaps.

    With `Accept: text/event-stream` the log is a stream of Server-Sent Events that ends with the job. A client that
    reconnects with Last-Event-ID misses no event and receives none twice. 204 means that no more events will come.
    """
    if "text/event-stream" in request.headers.get("accept", ""):
        is_head = bool(getattr(request.state, "is_head", False))
        return _stream(context, streams, project, job_id, _event_id(last_event_id, after), is_head=is_head)
    with context.database.read() as session:
        job = job_of(queries.job(session, project, job_id))
        found, has_more = queries.events(session, job.id, after=after, limit=limit, kind=type)
        data = [event_answer(event) for event in found]
        return Page(data=data, has_more=has_more)


def _stream(
    context: ServiceContext, streams: Feed, project: str, job_id: str, after: int, *, is_head: bool
) -> Response:
    if streams.is_closing:
        raise Unavailable("this service is stopping; connect again")
    with context.database.read() as session:
        job = job_of(queries.job(session, project, job_id))
    if job.status in TERMINAL and after >= job.event_seq:
        # By the standard, this status stops an EventSource from reconnecting.
        return Response(status_code=204)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if is_head:
        # A HEAD response has no body, so it must not wait for the end of the stream.
        return Response(media_type="text/event-stream", headers=headers)
    return StreamingResponse(streams.stream(job.id, after), media_type="text/event-stream", headers=headers)


def _event_id(last_event_id: str | None, after: int) -> int:
    if last_event_id is None:
        return after
    if not (last_event_id.isascii() and last_event_id.isdigit() and int(last_event_id[:20]) <= LARGEST_ID):
        raise InvalidRequest(
            "Last-Event-ID must be the id of an event, a whole number", param="last-event-id", code="invalid_event_id"
        )
    return int(last_event_id)


@router.get("/metrics", response_model=Metrics)
def metrics(job_id: str, context: Context, project: ProjectId) -> Metrics:
    """Metric series by name, as the Hugging Face Trainer names them."""
    with context.database.read() as session:
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
    context: Context,
    project: ProjectId,
    attempt: Annotated[
        int | None,
        Query(ge=1, le=1_000_000, description="The attempt. Without it: the newest attempt that has output."),
    ] = None,
    tail: Annotated[int, Query(ge=1, le=1_000_000, description="Number of characters from the end.")] = 20_000,
) -> Logs:
    """Read the end of the training process's output."""
    with context.database.read() as session:
        job = job_of(queries.job(session, project, job_id))
        found, text = queries.log_tail(session, job.id, attempt=attempt, limit=tail)
    return Logs(attempt=found, text=text)
