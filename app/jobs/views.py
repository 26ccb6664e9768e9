"""Jobs as the API shows them: only the columns of the answer. Large JSON stays the text that the database has."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import orjson
from sqlalchemy import BindParameter, ColumnElement, Double, Select, Text, bindparam, exists, null, select, tuple_
from sqlalchemy import cast as sql_cast
from sqlalchemy.orm import Session, aliased

from app.db import Prepared, now
from app.jobs.tables import Job, JobMetadata


class JobView(NamedTuple):
    """A job's row. `…_json` is JSON as text."""

    id: str
    project_id: str
    name: str | None
    metadata_json: str
    parent_id: str | None
    status: str
    phase: str | None
    attempt: int
    failures: int
    workers_lost: int
    cancel_requested_at: float | None
    pause_requested_at: float | None
    priority: int
    queue: str
    engine: str
    features: list[str] | None
    progress: dict[str, Any] | None
    metrics_json: str | None
    error: dict[str, Any] | None
    created_at: float
    pinned_at: float | None
    first_started_at: float | None
    started_at: float | None
    finished_at: float | None
    queued_at: float
    available_at: float
    waiting_since: float | None
    queued_seconds: float
    running_seconds: float
    gpu_seconds: float
    gpus: int
    event_seq: int
    at: float
    """The database's clock when the row was read."""
    spec_json: str | None
    """None where the specs were left out."""
    resolved_json: str | None
    preflight_json: str | None


class Filters(NamedTuple):
    """Which jobs a list has. None: any."""

    status: str | None = None
    task: str | None = None
    name: str | None = None
    metadata: Mapping[str, str] | None = None
    created_after: float | None = None
    created_before: float | None = None

    def is_selective(self) -> bool:
        """Whether an index has the jobs in order, so that a page is found without reading other jobs."""
        given = [self.status, self.task, self.name, *(self.metadata or {}).values()]
        return sum(value is not None for value in given) <= 1


class Place(NamedTuple):
    """The place of a job in lists."""

    created_at: float
    id: str


def job(session: Session, project_id: str, job_id: str) -> JobView | None:
    """One job of this project with its spec."""
    found = _ONE.rows(session, job_id=job_id, project_id=project_id)
    return _view(found[0]) if found else None


def place(session: Session, project_id: str, job_id: str) -> Place | None:
    """Where a job is in the lists of its project."""
    found = _PLACE.rows(session, job_id=job_id, project_id=project_id)
    return Place(*found[0]) if found else None


def jobs(
    session: Session, project_id: str, *, limit: int, filters: Filters = Filters(), after: Place | None = None
) -> tuple[list[JobView], bool]:
    """A page of jobs without their specs, newest first, and whether there are more. `after` ends the previous page."""
    pairs = sorted((filters.metadata or {}).items())
    given = {name: value for name, value in filters._asdict().items() if value is not None and name != "metadata"}
    values = {**given, "project_id": project_id, "limit": limit + 1}
    for number, (key, value) in enumerate(pairs):
        values |= {f"key{number}": key, f"value{number}": value}
    if after is not None:
        values |= {"after_created": after.created_at, "after_id": after.id}
    query = _page(tuple(sorted(given)), len(pairs), is_first=after is None)
    found = query.rows(session, **values)
    return [_view(row) for row in found[:limit]], len(found) > limit


def with_specs(session: Session, views: Sequence[JobView], *, limit_bytes: int) -> list[JobView]:
    """The first of these jobs with their specs, as many as the limit allows and at least one."""
    whole: list[JobView] = []
    size = 0
    for view in views:
        parts = [cast("str | None", part) for part in _SPECS.rows(session, job_id=view.id)[0]]
        size += sum(len(part) for part in parts if part is not None)
        if whole and size > limit_bytes:
            break
        spec, resolved, preflight = parts
        whole.append(view._replace(spec_json=spec, resolved_json=resolved, preflight_json=preflight))
    return whole


def _view(row: Any) -> JobView:
    view = JobView._make(row)
    return view._replace(features=_read(view.features), progress=_read(view.progress), error=_read(view.error))


def _read(text: Any) -> Any:
    return None if text is None else orjson.loads(text)


def _text(column: Any) -> ColumnElement[str]:
    return sql_cast(column, Text)


_SUMMARY = (
    Job.id,
    Job.project_id,
    Job.name,
    _text(Job.user_metadata),
    Job.parent_id,
    Job.status,
    Job.phase,
    Job.attempt,
    Job.failures,
    Job.workers_lost,
    Job.cancel_requested_at,
    Job.pause_requested_at,
    Job.priority,
    Job.queue,
    Job.engine,
    _text(Job.features),
    _text(Job.progress),
    _text(Job.metrics),
    _text(Job.error),
    Job.created_at,
    Job.pinned_at,
    Job.first_started_at,
    Job.started_at,
    Job.finished_at,
    Job.queued_at,
    Job.available_at,
    Job.waiting_since,
    Job.queued_seconds,
    Job.running_seconds,
    Job.gpu_seconds,
    Job.gpus,
    Job.event_seq,
    now(),
)
_WHOLE = (_text(Job.spec), _text(Job.resolved), _text(Job.preflight))
_MINE = (Job.id == bindparam("job_id"), Job.project_id == bindparam("project_id"), Job.deleted_at.is_(None))
_ONE = Prepared(select(*_SUMMARY, *_WHOLE).where(*_MINE))
_PLACE = Prepared(select(Job.created_at, Job.id).where(*_MINE))
_SPECS = Prepared(select(*_WHOLE).where(Job.id == bindparam("job_id")))


@lru_cache(maxsize=256)
def _page(given: tuple[str, ...], pairs: int, *, is_first: bool) -> Prepared:
    """The query for these filters.

    The index of the first filter gives the order, and all further ones are looked up in the rows that it finds.
    """
    query: Select[*tuple[Any, ...]] = select(*_SUMMARY, *(null() for _ in _WHOLE))
    query = query.where(Job.deleted_at.is_(None))
    created, job_id = Job.created_at, Job.id
    if pairs:
        # The pairs have their own order, so that no job is read that lacks the first of them.
        first = aliased(JobMetadata)
        query = query.join(first, first.job_id == Job.id).where(first.project_id == bindparam("project_id"))
        query = query.where(first.key == bindparam("key0"), first.value == bindparam("value0"))
        created, job_id = first.created_at, first.job_id
    else:
        query = query.where(Job.project_id == bindparam("project_id"))
    for number in range(1, pairs):
        query = query.where(_has_pair(number))
    query = query.where(*(column == bindparam(column.key) for column in _EQUAL if column.key in given))
    if "created_after" in given:
        query = query.where(created > _time("created_after"))
    if "created_before" in given:
        query = query.where(created < _time("created_before"))
    if not is_first:
        query = query.where(tuple_(created, job_id) < tuple_(_time("after_created"), bindparam("after_id", type_=Text)))
    return Prepared(query.order_by(created.desc(), job_id.desc()).limit(bindparam("limit")))


_EQUAL = (Job.status, Job.task, Job.name)


def _has_pair(number: int) -> ColumnElement[bool]:
    pair = aliased(JobMetadata)
    return exists().where(
        pair.project_id == bindparam("project_id"),
        pair.key == bindparam(f"key{number}"),
        pair.value == bindparam(f"value{number}"),
        pair.created_at == Job.created_at,
        pair.job_id == Job.id,
    )


def _time(name: str) -> BindParameter[float]:
    return bindparam(name, type_=Double)
