"""All tables, for the migrations: a table is in the metadata after its module was imported."""

from app.auth.tables import ApiKey, Project
from app.datasets.tables import Dataset
from app.jobs.tables import Artifact, Event, IdempotencyKey, Job, JobDataset, JobMetadata, LogChunk
from app.tables import Base
from app.turns import Turn
from app.webhooks.tables import Webhook, WebhookDelivery
from app.workers.tables import Worker

TABLES = (
    Project,
    ApiKey,
    Dataset,
    Job,
    JobDataset,
    JobMetadata,
    Event,
    LogChunk,
    Artifact,
    IdempotencyKey,
    Worker,
    Turn,
    Webhook,
    WebhookDelivery,
)

metadata = Base.metadata
