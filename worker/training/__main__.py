"""Trains one job by hand: `python -m worker.training SPEC.json OUT_DIR [--dataset NAME=PATH]… [--models-dir DIR]`.

Exit codes: 0 succeeded, 1 failed (with the error and what to do on stderr), 3 stopped by a signal with a checkpoint.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from worker.training.allocator import keep_freed_memory
from worker.training.threads import spin_briefly

EXIT_CODES = {"succeeded": 0, "failed": 1, "stopped": 3}


def main() -> int:
    """Read the command line, train with a progress bar, and say how it ended."""
    arguments, stop = _arguments(), _stop_on_signals()
    keep_freed_memory()
    # Read when torch and tokenizers are imported, so it has to be set before.
    spin_briefly()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from worker.training.by_hand import SpecUnusable, prepare_request  # noqa: PLC0415 - see above

    try:
        request = prepare_request(arguments.spec, arguments.out_dir, arguments.dataset, arguments.models_dir)
    except SpecUnusable as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command prints
        return EXIT_CODES["failed"]
    from worker.training.bar import ProgressBar  # noqa: PLC0415 - the same
    from worker.training.reports import Reporter  # noqa: PLC0415 - the same
    from worker.training.run import run  # noqa: PLC0415 - the same

    with ProgressBar() as bar:
        run(request, Reporter(request.out_dir, bar.show), stop)
    result = bar.result
    if result["status"] == "failed":
        _explain(result["error"])
    return EXIT_CODES[result["status"]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.training", description="Train one job by hand.")
    parser.add_argument("spec", type=Path, metavar="SPEC.json", help="the job spec")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="where to write; resumes what is there")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the file (.parquet, .csv or .jsonl) for a dataset that the spec names by this id or name",
    )
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="the folder of `local:NAME` models")
    return parser.parse_args()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _explain(error: dict[str, Any]) -> None:
    print(f"{error['code']}: {error['message']}\n{error['hint']}", file=sys.stderr)  # noqa: T201 - a command prints


if __name__ == "__main__":
    sys.exit(main())
