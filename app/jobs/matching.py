"""Which worker can run which job: the worker knows every feature that the job uses.

A job or worker of a version that stored no features has only an engine or engines. Then the engine alone decides.
"""

from collections.abc import Collection, Iterable
from typing import cast

from sqlalchemy import ColumnElement, and_, literal, or_

from app.db import json_within
from app.jobs.tables import Job
from app.jobs.views import JobView
from app.specs.features import ENGINE, LOCAL_MODEL, engine_feature
from app.tables import Json
from app.workers.tables import Worker


def runnable_with(features: Collection[str]) -> ColumnElement[bool]:
    """The jobs that a worker with these features can run."""
    known = literal(sorted(features), Json)
    engines = [feature.removeprefix(ENGINE) for feature in features if feature.startswith(ENGINE)]
    return or_(
        and_(Job.features.is_not(None), json_within(Job.features, known)),
        and_(Job.features.is_(None), Job.engine.in_(engines)),
    )


def runs_job() -> ColumnElement[bool]:
    """The workers that can run the job of the enclosing query."""
    both = and_(Job.features.is_not(None), Worker.features.is_not(None))
    has_engine = ("," + Worker.engines + ",").contains("," + Job.engine + ",")
    return or_(and_(both, json_within(Job.features, Worker.features)), and_(~both, has_engine))


def missing_features(job: Job | JobView, worker: Worker) -> list[str]:
    """The features of the job that this worker does not know."""
    if job.features is None or worker.features is None:
        return [] if job.engine in worker.engines.split(",") else [engine_feature(job.engine)]
    known = set(worker.features)
    return [feature for feature in job.features if feature not in known]


def least_missing(job: Job | JobView, workers: Iterable[Worker]) -> list[str]:
    """The features that the closest worker does not know.

    Empty if a worker can run the job, or if there are no workers.
    """
    return min((missing_features(job, worker) for worker in workers), key=len, default=cast("list[str]", []))


def described(features: Collection[str]) -> str:
    """Missing features in words, after "no live worker"."""
    if engine := next((feature for feature in features if feature.startswith(ENGINE)), None):
        return f"offers the engine {engine.removeprefix(ENGINE)}"
    if model := next((feature for feature in features if feature.startswith(LOCAL_MODEL)), None):
        return f"has the model {model.removeprefix('model.id=')} in its models folder"
    return f"knows {', '.join(features)}, which this job uses; start a worker of a newer version"
