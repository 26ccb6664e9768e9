"""What an engine is to the rest of training: a loop that follows the course, from one model folder to another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.training.course import Course
from worker.training.plan import Plan, Predictions


@dataclass(frozen=True)
class Outcome:
    """How training ended. `folder` holds the model to publish, None where the run was stopped."""

    course: Course
    folder: Path | None
    is_saved: bool
    """Whether a checkpoint of the last step stands, so that a stop from here on loses nothing."""


class Engine(Protocol):
    """One training loop."""

    def train(self, plan: Plan) -> Outcome:
        """Train to the end of the course, or until asked to stop. Raises the errors of training."""
        ...

    def predict(self, plan: Plan, folder: Path, split: str) -> Predictions:
        """Run a saved model over a split. Raises Stopped, or ModelRefused where weights are missing."""
        ...
