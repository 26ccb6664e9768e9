"""The engines by the `training.engine` of the spec."""

from worker.training.engines.protocol import Engine
from worker.training.engines.pytorch import PytorchEngine
from worker.training.engines.tensorflow import TensorflowEngine
from worker.training.engines.trainer import TrainerEngine

ENGINES: dict[str, Engine] = {
    "trainer": TrainerEngine(),
    "pytorch": PytorchEngine(),
    "tensorflow": TensorflowEngine(),
}

__all__ = ["ENGINES", "Engine"]
