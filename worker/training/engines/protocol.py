"""What an engine is to the rest of training: a loop that follows the course, from one model folder to another."""

from pathlib import Path
from typing import Protocol

from worker.training.checkpoints.shelf import Outcome
from worker.training.planning.plan import Answers, Plan


class Engine(Protocol):
    """One training loop."""

    def train(self, plan: Plan) -> Outcome:
        """Train to the end of the course, or until asked to stop. Raises the errors of training."""
        ...

    def predict(self, plan: Plan, folder: Path, split: str) -> Answers:
        """Run a saved model over a split. Raises Stopped, or ModelRefused where weights are missing."""
        ...
