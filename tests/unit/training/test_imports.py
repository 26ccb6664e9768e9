import subprocess
import sys
from pathlib import Path

LIGHT = ("checkpoints", "errors", "reports", "request")
ROOT = Path(__file__).parents[3]


def test_what_the_worker_imports_brings_no_framework() -> None:
    imports = ", ".join(f"worker.training.{name}" for name in LIGHT)
    heavy = "{'torch', 'transformers', 'datasets', 'sklearn', 'numpy', 'pyarrow'}"
    code = f"import sys, {imports}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
