"""The engines by the `training.engine` of the spec."""

from worker.training.engines.protocol import Engine, Outcome
from worker.training.engines.trainer import TrainerEngine

ENGINES: dict[str, Engine] = {
    "trainer": TrainerEngine(),
}

__all__ = ["ENGINES", "Engine", "Outcome"]
