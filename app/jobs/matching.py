"""Which worker can run which job: the worker knows every feature that the job uses.

A job or worker of a version that stored no features has only an engine or engines. Then the engine alone decides.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol, cast

from app.jobs.tables import Job
from app.specs.features import ENGINE, LOCAL_MODEL, engine_feature
from app.workers.tables import Worker


class Uses(Protocol):
    """What a job uses."""

    @property
    def engine(self) -> str:
        """Its engine."""
        ...

    @property
    def features(self) -> list[str] | None:
        """Its features, or None if it was stored without them."""
        ...


class Knows(NamedTuple):
    """What a worker can run."""

    engines: Collection[str]
    features: Collection[str] | None


def known_to(worker: Worker) -> Knows:
    """What a worker has announced."""
    return Knows(worker.engines.split(","), worker.features)


def known_by(features: Collection[str]) -> Knows:
    """What a worker with these features can run."""
    return Knows([feature.removeprefix(ENGINE) for feature in features if feature.startswith(ENGINE)], features)


def missing_features(job: Job | Uses, worker: Knows) -> list[str]:
    """The features of the job that this worker does not know. Empty if it can run the job."""
    if job.features is None or worker.features is None:
        return [] if job.engine in worker.engines else [engine_feature(job.engine)]
    known = frozenset(worker.features)
    return [feature for feature in job.features if feature not in known]


def least_missing(job: Job | Uses, workers: Iterable[Knows]) -> list[str]:
    """The features that the closest worker does not know.

    Empty if a worker can run the job, or if there are no workers.
    """
    missing = (missing_features(job, worker) for worker in workers)
    return min(missing, key=len, default=cast("list[str]", []))


def described(features: Collection[str]) -> str:
    """Missing features in words, after "no live worker"."""
    if engine := next((feature for feature in features if feature.startswith(ENGINE)), None):
        return f"offers the engine {engine.removeprefix(ENGINE)}"
    if model := next((feature for feature in features if feature.startswith(LOCAL_MODEL)), None):
        return f"has the model {model.removeprefix('model.id=')} in its models folder"
    return f"knows {', '.join(features)}, which this job uses; start a worker of a newer version"
