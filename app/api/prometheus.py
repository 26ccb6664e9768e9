"""Metrics for Prometheus, read from the database at each scrape. No key is needed."""

from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from app import __version__
from app.api.connections import Connections
from app.api.context import ServiceContext
from app.api.shared_answer import SharedAnswer
from app.jobs import queries
from app.jobs.states import JobStatus
from app.workers.queries import listed

router = APIRouter(tags=["system"])

TEXT = {
    "content": {"text/plain": {"schema": {"type": "string"}}},
    "description": "The metrics in the exposition format.",
}


@router.get("/metrics", response_class=Response, responses={200: TEXT})
async def prometheus(request: Request) -> Response:
    """Jobs by status, the age of the oldest queued job, workers and slots, over all projects, up to a second old."""
    shared: SharedAnswer[Figures] = request.app.state.figures
    registry = CollectorRegistry()
    registry.register(await shared.get())
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"content-type": media_type})


# A registry distinguishes collectors by identity.
@dataclass(frozen=True, eq=False)
class Figures(Collector):
    """What the metrics say."""

    jobs: dict[str, int]
    oldest_queued_seconds: float
    workers_alive: int
    workers_silent: int
    slots: int
    connections: int
    connections_closed: dict[str, int]

    def collect(self) -> Iterator[Metric]:
        """The metrics with their names."""
        yield InfoMetricFamily("tunesmith_build", "The version of the service.", value={"version": __version__})
        jobs = GaugeMetricFamily("tunesmith_jobs", "Jobs by status.", labels=["status"])
        for status in JobStatus:
            jobs.add_metric([status], self.jobs.get(status, 0))
        yield jobs
        yield GaugeMetricFamily(
            "tunesmith_oldest_queued_seconds",
            "How long the oldest queued job has waited; 0 when none waits.",
            value=self.oldest_queued_seconds,
        )
        workers = GaugeMetricFamily("tunesmith_workers", "Workers that have not stopped.", labels=["state"])
        workers.add_metric(["alive"], self.workers_alive)
        workers.add_metric(["silent"], self.workers_silent)
        yield workers
        yield GaugeMetricFamily("tunesmith_slots", "Jobs that the live workers can run at once.", value=self.slots)
        yield GaugeMetricFamily(
            "tunesmith_connections", "Open connections of the process that answers.", value=self.connections
        )
        closed = CounterMetricFamily(
            "tunesmith_connections_closed",
            "Connections that the process which answers has closed: slow clients, and those above the limit.",
            labels=["reason"],
        )
        for reason, count in self.connections_closed.items():
            closed.add_metric([reason], count)
        yield closed


def figures(context: ServiceContext, connections: Connections | None) -> Figures:
    """Read all figures."""
    with context.database.read() as session:
        return _read(session, context.settings.lease_seconds, connections)


def _read(session: Session, silent_for: float, connections: Connections | None) -> Figures:
    workers = listed(session, silent_for=silent_for)
    alive = [worker for worker, is_alive in workers if is_alive]
    return Figures(
        jobs=queries.job_counts(session),
        oldest_queued_seconds=queries.longest_wait(session) or 0.0,
        workers_alive=len(alive),
        workers_silent=len(workers) - len(alive),
        slots=sum(worker.slots for worker in alive),
        connections=len(connections) if connections is not None else 0,
        connections_closed=dict(connections.closed) if connections is not None else {},
    )
