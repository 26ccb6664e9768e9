"""The OpenAPI document describes the service exactly, as far as Schemathesis can find out."""

import subprocess
import sys
from pathlib import Path

from deployment import Deployment

CONFIG = Path(__file__).parents[1] / "schemathesis.toml"
EXAMPLES = 5
"""Generated requests of each operation, besides those of the examples and of the limits of each field."""


def test_schemathesis_finds_nothing(local: Deployment) -> None:
    api = local.start_api()
    tool = Path(sys.executable).with_name("schemathesis")
    arguments = [
        *("--config-file", str(CONFIG), "run", f"{local.url}/openapi.json", "--checks", "all"),
        *("-H", f"Authorization: Bearer {local.key}", "--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-examples", str(EXAMPLES), "--generation-deterministic", "--request-timeout", "60", "--no-color"),
    ]

    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False, cwd=local.folder)

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert "Traceback" not in api.log
