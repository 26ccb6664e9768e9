"""The ASGI application: its resources, its routes, and what they share."""

import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.api import artifacts, capabilities, datasets, events, jobs, keys, prometheus, system, usage, webhooks
from app.api.audit_writer import AuditWriter
from app.api.connections import Connections
from app.api.context import ServiceContext
from app.api.datasets import UPLOADS
from app.api.edge import Edge
from app.api.error_responses import answer_errors
from app.api.hints import Hints
from app.api.prometheus import figures
from app.api.rate_limits import RateLimits
from app.api.shared_answer import SharedAnswer
from app.api.stream import Feed
from app.api.system import readiness
from app.datasets.intake_slots import IntakeSlots
from app.datasets.local_copy import LocalCopies
from app.db import Database
from app.garbage_collection import GarbageCollector
from app.jobs.decision import RetryPolicy
from app.jobs.queue_cache import QueueCache
from app.jobs.sweeper import Sweeper
from app.jobs.wakeup import open_wakeup
from app.sealing import Sealer
from app.settings import Settings
from app.specs import JobSpec
from app.storage import open_storage
from app.webhooks.deliveries import Deliveries
from app.webhooks.sender import Sender
from app.workspaces import clear_abandoned

DESCRIPTION = (
    "A self-hosted service for fine-tuning jobs: POST a job, watch it, download a checkpoint that transformers loads."
)

OF_ALL_KEYS = {
    "401": "The key is missing, wrong, revoked or expired.",
    "403": "The role of the key is not enough.",
    "422": "A parameter or the body is not valid.",
    "429": "Too many requests, or the project has used what it may.",
}
"""What any route that needs a key may answer."""


def create_app(settings: Settings | None = None, connections: Connections | None = None) -> FastAPI:
    """Build the application. Its resources are opened when it starts and closed when it stops.

    `connections` are those of the server, if it has limits for them.
    """
    in_force = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        context = open_context(in_force)
        sweeper = Sweeper(
            context.database,
            RetryPolicy.of(in_force),
            context.wakeup,
            interval=in_force.sweep_seconds,
            lease_seconds=in_force.lease_seconds,
            engine_seconds=in_force.engine_seconds,
        )
        app.state.context = context
        app.state.audit = AuditWriter(context.database)
        feed = app.state.feed = Feed(context.database)
        app.state.readiness = SharedAnswer(lambda: readiness(context))
        app.state.figures = SharedAnswer(lambda: figures(context, connections))
        clear_abandoned(in_force.cache() / UPLOADS)
        sweeper.start()
        collector = GarbageCollector(context.database, context.storage, in_force)
        collector.start()
        deliveries = Deliveries(context.database, context.sender, context.sealer)
        # What is loaded now stays. Looking through it again would stop all requests for many milliseconds each time.
        gc.collect()
        gc.freeze()
        yield
        await feed.close()
        await deliveries.close()
        await app.state.audit.flush()
        collector.stop()
        sweeper.stop()
        context.hints.close()
        await context.database.close_glances()
        context.database.close()

    app = FastAPI(
        title="Tunesmith", version=__version__, description=DESCRIPTION, lifespan=lifespan, redirect_slashes=False
    )
    for module in (jobs, events, artifacts, datasets, webhooks, keys, usage, capabilities, system, prometheus):
        app.include_router(module.router)
    answer_errors(app)
    app.add_middleware(Edge)
    plain_openapi = app.openapi
    app.openapi = lambda: _with_job_spec(plain_openapi())  # type: ignore[method-assign]
    return app


def open_context(settings: Settings) -> ServiceContext:
    """Open the database, the storage and the broker of these settings."""
    storage = open_storage(settings.storage())
    database = Database(settings.database())
    wakeup = open_wakeup(settings.broker_url, database)
    return ServiceContext(
        settings=settings,
        database=database,
        storage=storage,
        wakeup=wakeup,
        hints=Hints(wakeup),
        copies=LocalCopies(storage, settings.cache(), settings.cache_limit_bytes),
        intake=IntakeSlots(settings.intake_slots),
        sender=Sender(private_addresses=settings.webhook_private_addresses),
        queue=QueueCache(settings.lease_seconds),
        sealer=Sealer.of(settings),
        rates=RateLimits(settings.rate_limit, settings.failed_sign_in_limit, settings.broker_url),
    )


def _with_job_spec(document: dict[str, Any]) -> dict[str, Any]:
    """Add the body that `app.api.body` reads by itself, which FastAPI cannot see."""
    schemas = document["components"]["schemas"]
    _describe_keys(document)
    if "JobSpec" not in schemas:
        schema = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs"))
        schemas["JobSpec"] = schema
        body = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}}}
        for path in ("/v1/jobs", "/v1/jobs/validate"):
            document["paths"][path]["post"]["requestBody"] = body
    return document


def _describe_keys(document: dict[str, Any]) -> None:
    """Add what all routes with a key have in common."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, operations in document["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for operation in operations.values():
            operation["security"] = [{"key": []}]
            for status, description in OF_ALL_KEYS.items():
                operation["responses"].setdefault(status, {"description": description, "content": error})
