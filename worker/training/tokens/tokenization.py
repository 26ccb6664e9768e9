"""Rows become tokens once, in batches, in Arrow files that training maps into memory."""

import logging
import threading
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.specs import JobSpec, Resolved
from worker.training.errors import Stopped
from worker.training.inputs.table import Table
from worker.training.reports import Reporter
from worker.training.tasks.protocol import PLACE, Task
from worker.training.tokens.cache import EntryBroken, TokenCache
from worker.training.tokens.identity import Identity, identities

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
    told: dict[str, Any] = {}
    for split, table in splits.items():
        if stop.is_set():
            raise Stopped
        path = scratch / f"tokens-{split}.arrow"
        cut = _take(cache, known[split], path, split, table, report) if cache else None
        if cut is None:
            cut = _encode(split, table, task, tokenizer, spec, resolved, path, report, stop)
            if cache:
                _keep(cache, known[split], path, split, table, cut, report)
        if cut:
            report.note(f"{cut} of {len(table)} {split} rows were cut to {resolved.max_length} tokens")
        encoded[split] = datasets.Dataset.from_file(str(path))
        told[split] = {
            "rows": len(table),
            "cut": cut,
            "cut_share": round(cut / len(table), 4),
            **_spread(encoded[split]),
        }
    report.preflight(tokens=told)
    return encoded


def lengths(encoded: datasets.Dataset) -> list[int]:
    """Tokens of each sequence; where it has several parts, of all of them."""
    columns = cast("Any", encoded.data)
    parts = [columns.column(name) for name in encoded.column_names if name.endswith("input_ids")]
    counts = [cast("Any", pc).list_value_length(part).to_numpy() for part in parts]
    return cast("list[int]", np.sum(counts, axis=0).tolist())


def compact(features: dict[str, list[Any]]) -> pa.Table:
    """Encoded rows in Arrow, as training takes them."""
    # Token ids fit 32 bits: half of what Python's integers would take on disk and in memory.
    columns = {name: pa.array(values) for name, values in features.items()}
    lists = {
        name: values.cast(pa.list_(pa.int32()))
        for name, values in columns.items()
        if pa.types.is_list(values.type) and pa.types.is_integer(values.type.value_type)
    }
    return pa.table({**columns, **lists})


def _spread(encoded: datasets.Dataset) -> dict[str, Any]:
    # How long the sequences are after cutting; the histogram counts those of up to so many tokens, less the bins before.
    found = np.asarray(lengths(encoded))
    longest = int(found.max())
    edges = [2**power for power in range(3, longest.bit_length() + 1)]
    counts, _ = np.histogram(found, [0, *(edge + 1 for edge in edges)] if edges else [0, longest + 1])
    return {
        "sequences": len(found),
        "tokens": int(found.sum()),
        "median": int(np.median(found)),
        "p95": int(np.percentile(found, 95)),
        "max": longest,
        "histogram": {str(edge): int(count) for edge, count in zip(edges or [longest], counts, strict=True)},
    }


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


def _encode(  # noqa: PLR0917 - it is called once, right above
    split: str,
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
    cut = start = 0
    writer: pa.RecordBatchStreamWriter | None = None
    for rows in table.batches():
        if stop.is_set():
            raise Stopped
        report.alive()
        features = task.encode(rows, tokenizer, spec, resolved.labels, resolved.max_length, split)
        cut += sum(features.pop("cut"))
        if PLACE in features:
            features[PLACE] = [start + place for place in features[PLACE]]
        start += len(rows)
        batch = compact(features)
        writer = writer or pa.ipc.new_stream(path, batch.schema)
        writer.write_table(batch)
    if writer is not None:
        writer.close()
    return cut


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
