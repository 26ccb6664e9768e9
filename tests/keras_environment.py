"""Finds the environment with TensorFlow, as workers do. Tests that need it fail without it: nothing is skipped."""

from pathlib import Path

import pytest

from app.settings import Settings
from worker.training import tensorflow_environment


def tensorflow_python() -> Path:
    python = Settings().tensorflow()
    if tensorflow_environment.versions(python) is None:
        pytest.fail(f"{python} has no TensorFlow: run `make install-tensorflow`", pytrace=False)
    return python
