import subprocess
import sys
from pathlib import Path

LIGHT = ("checkpoints.folders", "errors", "reports", "request")
ROOT = Path(__file__).parents[3]


def test_what_the_worker_imports_brings_no_framework() -> None:
    imports = ", ".join(f"worker.training.{name}" for name in LIGHT)
    heavy = "{'torch', 'transformers', 'datasets', 'sklearn', 'numpy', 'pyarrow'}"
    code = f"import sys, {imports}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_preloaded_asks_nothing_of_a_gpu_and_leaves_four_bits_possible() -> None:
    # bitsandbytes asks CUDA for its devices as it is imported: after that no forked child could use them.
    code = (
        "import sys, worker.training.warm; print('bitsandbytes' in sys.modules);"
        "from peft.import_utils import is_bnb_4bit_available; print(is_bnb_4bit_available());"
        "from transformers.utils import is_bitsandbytes_available; print(is_bitsandbytes_available())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]
