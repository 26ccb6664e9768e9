"""What an engine is to the rest of training: a loop over the training state, from one model folder to another."""

from pathlib import Path
from typing import Protocol

from worker.training.checkpoints.checkpoint_manager import TrainedModel
from worker.training.planning.plan import Answers, Plan


class Engine(Protocol):
    """One training loop. An engine subclasses this protocol."""

    def versions(self, tensorflow_python: Path | None) -> dict[str, str]:
        """The versions of packages that are not in our own environment, by name. Raises EngineMissing."""
        return {}

    def train(self, plan: Plan) -> TrainedModel:
        """Train to the end, or until asked to stop. Raises the errors of training."""
        ...

    def predict(self, plan: Plan, folder: Path, split: str) -> Answers:
        """Run a saved model over a split. Raises Stopped, or ModelRefused if weights are missing."""
        ...
