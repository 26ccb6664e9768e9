"""What a job reports while it runs: its event log, metric series and text output."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from app.api.answers import Error, EventAnswer, Logs, Metrics, Page
from app.api.context import Context, ProjectId, ServiceContext, Streams
from app.api.event_json import event_json
from app.api.jobs import job_of
from app.api.json_answers import page_of, tagged, time_text
from app.api.stream import Feed
from app.errors import InvalidRequest, Unavailable
from app.jobs import event_log, metric_series, text_output
from app.jobs.events import EventType
from app.jobs.metric_series import Point
from app.jobs.states import TERMINAL

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], responses={404: {"model": Error}})

LARGEST_ID = 2**62
TYPE_FILTER = f"Only events of this type: {', '.join(EventType)}."
TAIL = 20_000
SHORT_LOG = 2000
"""A log of up to so many events is read on the event loop, a longer one in a thread."""


@router.get(
    "/events",
    response_model=Page[EventAnswer],
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "A page of the log, or the stream."},
        204: {},
        304: {},
    },
)
async def events(  # noqa: PLR0917 - FastAPI passes them by name
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
) -> Response:
    """Read the job's log, oldest first. Ids count from 1 without gaps.

    With `Accept: text/event-stream` the log is a stream of Server-Sent Events that ends with the job. A client that
    reconnects with Last-Event-ID misses no event and receives none twice. 204 means that no more events will come.
    """
    if "text/event-stream" in request.headers.get("accept", ""):
        is_head = bool(getattr(request.state, "is_head", False))
        return await _stream(context, streams, project, job_id, _event_id(last_event_id, after), is_head=is_head)

    def read(session: Session) -> Response:
        job_of(event_log.head(session, project, job_id))
        found = event_log.page(session, job_id, after=after, limit=limit + 1, kind=type)
        data = [event_json(event) for event in found[:limit]]
        return tagged(request, page_of(data, has_more=len(found) > limit))

    return await context.read(read)


async def _stream(
    context: ServiceContext, streams: Feed, project: str, job_id: str, after: int, *, is_head: bool
) -> Response:
    if streams.is_closing:
        raise Unavailable("this service is stopping; connect again")
    job = await context.read(lambda session: job_of(event_log.head(session, project, job_id)))
    if job.status in TERMINAL and after >= job.event_seq:
        # By the standard, this status stops an EventSource from reconnecting.
        return Response(status_code=204)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if is_head:
        # A HEAD response has no body, so it must not wait for the end of the stream.
        return Response(media_type="text/event-stream", headers=headers)
    return StreamingResponse(streams.stream(job_id, after), media_type="text/event-stream", headers=headers)


@router.get("/metrics", response_model=Metrics, responses={304: {}})
async def metrics(
    job_id: str,
    request: Request,
    context: Context,
    project: ProjectId,
    points: Annotated[
        int | None,
        Query(
            ge=10,
            le=100_000,
            description="At most about so many points of each series: the first, the last, and the lowest and highest value "
            "of each of as many stretches as fit. Without it: all points.",
        ),
    ] = None,
) -> Response:
    """Metric series by name, as the Hugging Face Trainer names them."""

    def read(session: Session) -> Response:
        found = metric_series.series(session, job_id)
        if points is not None:
            found = {name: metric_series.thinned(series, points) for name, series in found.items()}
        data = {name: [_point(point) for point in series] for name, series in found.items()}
        return tagged(request, {"object": "metrics", "series": data})

    job = await context.read(lambda session: job_of(event_log.head(session, project, job_id)))
    if job.event_seq <= SHORT_LOG:
        return await context.read(read)
    return await context.read_in_thread(read)


@router.get("/logs", response_model=Logs)
def logs(
    job_id: str,
    context: Context,
    project: ProjectId,
    attempt: Annotated[
        int | None,
        Query(ge=1, le=1_000_000, description="The attempt. Without it: the newest attempt that has output."),
    ] = None,
    tail: Annotated[
        int | None,
        Query(
            ge=1, le=1_000_000, description="Number of characters from the end; 20,000 without it and without `start`."
        ),
    ] = None,
    start: Annotated[
        int | None,
        Query(
            ge=0,
            le=LARGEST_ID,
            description="Instead of the end: the output from this place on. 0 is the beginning, and `next` of each "
            "response is the place of what follows. With `tail`: nothing before this place.",
        ),
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=1_000_000, description="With `start`: about how many characters to read.")
    ] = 100_000,
) -> Logs:
    """Read the training process's output: its end, or from any place on."""
    with context.database.read() as session:
        job_of(event_log.head(session, project, job_id))
        if start is None or tail is not None:
            found = text_output.tail(session, job_id, attempt=attempt, start=start or 0, limit=tail or TAIL)
        else:
            found = text_output.part(session, job_id, attempt=attempt, start=start, limit=limit)
    return Logs(**found._asdict())


def _point(point: Point) -> dict[str, object]:
    return {
        "step": point.step,
        "epoch": point.epoch,
        "value": point.value,
        "attempt": point.attempt,
        "time": time_text(point.time),
    }


def _event_id(last_event_id: str | None, after: int) -> int:
    if last_event_id is None:
        return after
    if not (last_event_id.isascii() and last_event_id.isdigit() and int(last_event_id[:20]) <= LARGEST_ID):
        raise InvalidRequest(
            "Last-Event-ID must be the id of an event, a whole number", param="last-event-id", code="invalid_event_id"
        )
    return int(last_event_id)
