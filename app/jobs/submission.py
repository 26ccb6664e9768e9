"""Decides whether a spec can become a job: everything that can be checked without ML."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.identifiers import new_id
from app.jobs.tables import Dataset, Job
from app.specs import JobSpec

INLINE_LIMIT_BYTES = 1024**2
SPLITS = ("train", "eval", "test")


@dataclass(frozen=True)
class Plan:
    """A spec that can become a job."""

    spec: JobSpec
    datasets: Mapping[str, Dataset]
    """Split to uploaded dataset, for the splits that are uploaded."""

    def job(self, project_id: str) -> Job:
        """The row to submit."""
        return Job(
            id=new_id("job"),
            project_id=project_id,
            name=self.spec.name,
            task=self.spec.task.type,
            user_metadata=dict(self.spec.metadata),
            priority=self.spec.priority,
            queue=queue_of(self.spec),
            spec=self.spec.model_dump(mode="json"),
        )

    def dataset_ids(self) -> set[str]:
        """The uploaded datasets that the job will read."""
        return {dataset.id for dataset in self.datasets.values()}


def queue_of(spec: JobSpec) -> str:
    """The capability a job needs: cpu, gpu, or any."""
    return {0: "cpu", 1: "gpu", "auto": "any"}[spec.resources.gpus]
