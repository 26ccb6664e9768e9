"""The ASGI application: its parts, its routes, and what they share."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.api import artifacts, catalogue, datasets, events, jobs, prometheus, system, webhooks
from app.api.datasets import UPLOADS
from app.api.dependencies import Service
from app.api.edge import Edge
from app.api.failures import answer_failures
from app.api.hints import Hints
from app.api.stream import Feed
from app.datasets.local_copy import LocalCopies
from app.db import Database
from app.jobs.lifecycle import limits_of
from app.jobs.sweeper import Sweeper
from app.jobs.wakeup import open_wakeup
from app.settings import Settings
from app.specs import JobSpec
from app.storage import open_storage
from app.storekeeping import Upkeep
from app.webhooks.deliveries import Deliveries
from app.webhooks.sender import Sender
from app.workspaces import clear_abandoned

DESCRIPTION = (
    "A self-hosted service for fine-tuning jobs: POST a job, watch it, download a checkpoint that transformers loads."
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application; its parts open when it starts and close when it stops."""
    in_force = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        service = open_service(in_force)
        sweeper = Sweeper(
            service.database,
            limits_of(in_force),
            service.wakeup,
            interval=in_force.sweep_seconds,
            lease_seconds=in_force.lease_seconds,
            engine_seconds=in_force.engine_seconds,
        )
        app.state.service = service
        feed = app.state.feed = Feed(service.database)
        clear_abandoned(in_force.cache() / UPLOADS)
        sweeper.start()
        upkeep = Upkeep(service.database, service.storage, in_force.upkeep_seconds)
        upkeep.start()
        deliveries = Deliveries(service.database, service.sender)
        yield
        await feed.close()
        await deliveries.close()
        upkeep.stop()
        sweeper.stop()
        service.hints.close()
        service.database.close()

    app = FastAPI(
        title="Tunesmith", version=__version__, description=DESCRIPTION, lifespan=lifespan, redirect_slashes=False
    )
    for module in (jobs, events, artifacts, datasets, webhooks, catalogue, system, prometheus):
        app.include_router(module.router)
    answer_failures(app)
    app.add_middleware(Edge)
    plain_openapi = app.openapi
    app.openapi = lambda: _with_job_spec(plain_openapi())  # type: ignore[method-assign]
    return app


def open_service(settings: Settings) -> Service:
    """Open the database, the storage and the broker of these settings."""
    storage = open_storage(settings.storage())
    wakeup = open_wakeup(settings.broker_url)
    return Service(
        settings=settings,
        database=Database(settings.database()),
        storage=storage,
        wakeup=wakeup,
        hints=Hints(wakeup),
        copies=LocalCopies(storage, settings.cache(), settings.cache_limit_bytes),
        intake=asyncio.Semaphore(settings.intake_slots),
        sender=Sender(private_addresses=settings.webhook_private_addresses),
    )


def _with_job_spec(document: dict[str, Any]) -> dict[str, Any]:
    """Add the body that `app.api.body` reads by itself, which FastAPI cannot see."""
    schemas = document["components"]["schemas"]
    if "JobSpec" not in schemas:
        schema = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs"))
        schemas["JobSpec"] = schema
        body = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}}}
        for path in ("/v1/jobs", "/v1/jobs/validate"):
            document["paths"][path]["post"]["requestBody"] = body
    return document
