"""The environment of the engine `tensorflow`: whether it exists, and its versions."""

import json
import subprocess
from pathlib import Path

PACKAGES = {"tensorflow": "tensorflow", "tf_keras": "tf-keras", "transformers": "tensorflow-transformers"}
"""The required packages, and the names of their versions among those of the main environment."""
ASK = "import importlib.metadata as m, json, sys; print(json.dumps([m.version(name) for name in sys.argv[1:]]))"


def versions(python: Path | None) -> dict[str, str] | None:
    """The versions of the required packages; None if one is missing. Nothing is imported, because that takes seconds."""
    if python is None or not python.is_file():
        return None
    asked = subprocess.run(
        [python, "-I", "-c", ASK, *PACKAGES], capture_output=True, text=True, check=False, timeout=60
    )
    if asked.returncode != 0:
        return None
    return dict(zip(PACKAGES.values(), json.loads(asked.stdout), strict=True))
