"""Finds the environment with TensorFlow, as workers do. Tests that need it fail without it: nothing is skipped."""

from pathlib import Path

import pytest
import warm_start

from app.settings import Settings
from worker.training.engines.keras_process import environment
from worker.training.keras import environment as tensorflow_environment


def tensorflow_python() -> Path:
    """The interpreter of that environment, as a worker starts it."""
    python = Settings().tensorflow()
    if tensorflow_environment.versions(python) is None:
        pytest.fail(f"{python} has no TensorFlow: run `make install-tensorflow`", pytrace=False)
    return python


def warm_tensorflow_python() -> Path:
    """An interpreter that has already imported TensorFlow, for tests that do not kill or inspect its process."""
    return warm_start.tensorflow_python(tensorflow_python(), environment())
