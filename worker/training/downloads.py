"""Reports the progress of downloads from the hub, so that a slow download is not mistaken for a hung process."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from worker.training.reports import Reporter

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0


@contextmanager
def reported(report: Reporter, source: str, folders: Sequence[Path], total_bytes: int | None = None) -> Iterator[None]:
    """Report the phase `downloading` and the bytes received, while the files in these folders grow.

    Nothing is reported while they do not grow, so a stalled download still counts as hung. `total_bytes` gives the ETA.
    After the download the phase is `preparing` again.
    """
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ended, report, source, folders, total_bytes), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(
    ended: threading.Event, report: Reporter, source: str, folders: Sequence[Path], total_bytes: int | None
) -> None:
    began, before = time.monotonic(), _bytes(folders)
    received = 0
    try:
        while not ended.wait(INTERVAL_SECONDS):
            grown = _bytes(folders) - before
            if grown == received:
                continue
            if not received:
                report.phase("downloading")
            received = grown
            _report(report, source, received, total_bytes, time.monotonic() - began)
        if received:
            report.phase("preparing")
    except OSError:
        # The disk is full: the download itself fails of it, with a better message.
        log.warning("the progress of a download could not be reported", exc_info=True)


def _report(report: Reporter, source: str, received: int, total_bytes: int | None, seconds: float) -> None:
    left = None if total_bytes is None or received <= 0 else max(0, total_bytes - received) / received * seconds
    report.preflight(
        download={
            "source": source,
            "bytes": received,
            "of_bytes": total_bytes,
            "eta_seconds": None if left is None else round(left, 1),
        }
    )


def _bytes(folders: Sequence[Path]) -> int:
    found = 0
    for path in (path for folder in folders for path in folder.rglob("*")):
        try:
            found += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            # It was renamed into place meanwhile. The next look sees it again.
            continue
    return found
