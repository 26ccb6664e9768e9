"""The metric series of a job, whole or thinned for a plot."""

from collections.abc import Sequence
from typing import NamedTuple

import orjson
from sqlalchemy import Text, bindparam, cast, select
from sqlalchemy.orm import Session

from app.db import Prepared
from app.jobs.tables import Event


class Point(NamedTuple):
    """One value of a series."""

    step: int
    epoch: float | None
    value: float
    attempt: int
    time: float


def series(session: Session, job_id: str) -> dict[str, list[Point]]:
    """Name to points in the order of their steps. If two attempts reported the same step, the later one counts."""
    found: dict[str, dict[int, Point]] = {}
    for text, attempt, time in _METRICS.rows(session, job_id=job_id):
        data = orjson.loads(text)
        step, epoch = data["step"], data.get("epoch")
        for name, value in data["values"].items():
            if value is not None:
                found.setdefault(name, {})[step] = Point(step, epoch, value, attempt, time)
    return {name: [points[step] for step in sorted(points)] for name, points in sorted(found.items())}


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most `limit` points: the first, the last, and the lowest and highest of each of equally long stretches between.

    So a plot keeps every peak, which a mean or every n-th point would lose.
    """
    if len(points) <= limit:
        return list(points)
    between = points[1:-1]
    stretches = (limit - 2) // 2
    kept = [points[0]]
    for number in range(stretches):
        stretch = between[number * len(between) // stretches : (number + 1) * len(between) // stretches]
        ends = {min(stretch, key=_value), max(stretch, key=_value)}
        kept += sorted(ends)
    return [*kept, points[-1]]


def _value(point: Point) -> float:
    return point.value


_METRICS = Prepared(
    select(cast(Event.data, Text), Event.attempt, Event.created_at)
    .where(Event.job_id == bindparam("job_id"), Event.type == "metric")
    .order_by(Event.seq)
)
