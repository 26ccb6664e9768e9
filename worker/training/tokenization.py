"""Rows become tokens once, in batches, in Arrow files that training maps into memory."""

import logging
import threading
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from app.specs import JobSpec, Resolved
from worker.training.errors import Stopped
from worker.training.reports import Reporter
from worker.training.table import Table
from worker.training.tasks.protocol import Task
from worker.training.token_cache import EntryBroken, TokenCache
from worker.training.token_identity import Identity, identities

log = logging.getLogger(__name__)


def tokenize(
    splits: dict[str, Table],
    task: Task,
    tokenizer: Any,
    spec: JobSpec,
    resolved: Resolved,
    scratch: Path,
    report: Reporter,
    stop: threading.Event,
    *,
    cache: TokenCache | None = None,
) -> dict[str, datasets.Dataset]:
    """Encode every split into `scratch`, or take it from the cache. Raises RowTooLong, or Stopped between two batches."""
    scratch.mkdir(parents=True, exist_ok=True)
    # Before the first row: what a tokenizer holds changes as it is used.
    known = identities(list(splits), tokenizer, spec, resolved, scratch) if cache else {}
    encoded: dict[str, datasets.Dataset] = {}
    for split, table in splits.items():
        if stop.is_set():
            raise Stopped
        path = scratch / f"tokens-{split}.arrow"
        cut = _take(cache, known[split], path, split, table, report) if cache else None
        if cut is None:
            cut = _encode(table, task, tokenizer, spec, resolved, path, report, stop)
            if cache:
                _keep(cache, known[split], path, split, table, cut, report)
        if cut:
            report.note(f"{cut} of {len(table)} {split} rows were cut to {resolved.max_length} tokens")
        encoded[split] = datasets.Dataset.from_file(str(path))
    return encoded


def lengths(encoded: datasets.Dataset) -> list[int]:
    """Tokens of each row."""
    columns = cast("Any", encoded.data)
    return cast("list[int]", cast("Any", pc).list_value_length(columns.column("input_ids")).to_pylist())


def _take(cache: TokenCache, identity: Identity, path: Path, split: str, table: Table, report: Reporter) -> int | None:
    try:
        cut = cache.take(identity, path)
    except EntryBroken:
        report.note(f"{split}: the tokens in the cache were damaged; the rows are tokenized anew")
        return None
    except OSError:
        log.warning("the tokens of %s cannot be taken from the cache", split, exc_info=True)
        return None
    if cut is not None:
        report.note(f"{split}: {len(table)} rows were tokenized before; taken from the cache")
    return cut


def _encode(
    table: Table,
    task: Task,
    tokenizer: Any,
    spec: JobSpec,
    resolved: Resolved,
    path: Path,
    report: Reporter,
    stop: threading.Event,
) -> int:
    """Write the tokens of all rows to `path`; returns how many rows were cut."""
    # What is there may be one with an entry of the cache, and must not be written into.
    path.unlink(missing_ok=True)
    cut = 0
    writer: pa.RecordBatchStreamWriter | None = None
    for rows in table.batches():
        if stop.is_set():
            raise Stopped
        report.alive()
        features = task.encode(rows, tokenizer, spec, resolved.labels, resolved.max_length)
        cut += sum(features.pop("cut"))
        batch = _compact(features)
        writer = writer or pa.ipc.new_stream(path, batch.schema)
        writer.write_table(batch)
    if writer is not None:
        writer.close()
    return cut


def _compact(features: dict[str, list[Any]]) -> pa.Table:
    # Token ids fit 32 bits: half of what Python's integers would take on disk and in memory.
    columns = {name: pa.array(values) for name, values in features.items()}
    lists = {
        name: values.cast(pa.list_(pa.int32())) for name, values in columns.items() if pa.types.is_list(values.type)
    }
    return pa.table({**columns, **lists})


def _keep(
    cache: TokenCache, identity: Identity, path: Path, split: str, table: Table, cut: int, report: Reporter
) -> None:
    # Later jobs gain by it and this one does not: so it never fails this one.
    try:
        if not cache.keep(identity, path, rows=len(table), cut=cut):
            log.info("the tokens of %s are larger than the whole cache may be", split)
    except OSError as error:
        log.warning("the tokens of %s cannot be kept in the cache", split, exc_info=True)
        report.note(f"{split}: the tokens were not kept for later jobs: {error.strerror or type(error).__name__}")
