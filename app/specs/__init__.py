"""The job spec: what a job may ask for. Pure pydantic, shared by the service, the worker and the command line."""

from app.specs.job import JobSpec
from app.specs.problems import Problem, problems
from app.specs.resolved import Resolved
from app.specs.tasks import TASKS

__all__ = ["TASKS", "JobSpec", "Problem", "Resolved", "problems"]
