"""Imports everything that training needs, so that a forkserver can hand out processes that start in milliseconds.

Imports only: one tensor operation, tokenizer call or `torch.cuda` call in here would hang or break the children.
"""

import gc
import importlib
import signal
import sys
from typing import Any, cast

PRELOADED = (
    "datasets",
    "evaluate",
    "sklearn.metrics",
    "sklearn.model_selection",
    "torch",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.trainer",
    "worker.training.engines",
    "worker.training.run",
    "worker.training.tasks",
)
HIDDEN = "bitsandbytes"
"""transformers imports peft, which imports this where it is installed; and this asks CUDA for its devices."""
ASKED_FOR_IT = (
    ("peft.import_utils", "is_bnb_available"),
    ("peft.import_utils", "is_bnb_4bit_available"),
    ("transformers.utils.import_utils", "is_bitsandbytes_available"),
)
"""Functions that remember whether it is there. The children shall find it."""

# A module that is None cannot be imported (see the documentation of `sys.modules`).
sys.modules[HIDDEN] = cast("Any", None)
try:
    for name in PRELOADED:
        importlib.import_module(name)
finally:
    del sys.modules[HIDDEN]
for module, function in ASKED_FOR_IT:
    getattr(sys.modules[module], function).cache_clear()

# A SIGTERM to the whole process group reaches the forkserver too. Its end would kill the training processes, which are
# to save a checkpoint instead; each sets a handler of its own.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

# A collection would look at every object of these libraries in each child, and so copy the pages that the children share
# with the forkserver (https://docs.python.org/3/library/gc.html#gc.freeze): 0.6 s each, and a run has several.
gc.collect()
gc.freeze()
