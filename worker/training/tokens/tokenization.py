"""Rows become tokens once, in batches, in Arrow files that training maps into memory."""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.specs import JobSpec, Resolved
from worker.training.errors import Stopped
from worker.training.inputs.table import BATCH, Row, Table
from worker.training.loop.losses import IGNORE_INDEX
from worker.training.reports import Reporter
from worker.training.tasks.protocol import PLACE, Task
from worker.training.tokens.cache import EntryBroken, TokenCache
from worker.training.tokens.identity import Identity, identities

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoder:
    """Turns rows into tokens and targets."""

    task: Task
    tokenizer: Any
    spec: JobSpec
    resolved: Resolved

    def encode(self, rows: list[Row], split: str) -> dict[str, list[Any]]:
        """Tokens and targets of rows by feature name, as `Task.encode` returns them. Raises RowTooLong."""
        return self.task.encode(rows, self.tokenizer, self.spec, self.resolved.labels, self.resolved.max_length, split)


def tokenize(
    tables: dict[str, Table],
    encoder: Encoder,
    cache: TokenCache | None,
    scratch: Path,
    report: Reporter,
    stop: threading.Event,
) -> dict[str, datasets.Dataset]:
    """Encode every split into `scratch`, or take its tokens from the cache.

    Raises RowTooLong, and Stopped between two batches.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    # Before the first row, because the state of a tokenizer changes as it is used.
    known = identities(list(tables), encoder, scratch) if cache else {}
    encoded: dict[str, datasets.Dataset] = {}
    findings: dict[str, Any] = {}
    for split, table in tables.items():
        if stop.is_set():
            raise Stopped
        path = scratch / f"tokens-{split}.arrow"
        truncated = _take(cache, known[split], path, split, table, report) if cache else None
        if truncated is None:
            truncated = _encode(split, table, encoder, path, report, stop)
            if cache:
                _keep(cache, known[split], path, split, table, truncated, report)
        if truncated:
            limit = encoder.resolved.max_length
            report.note(f"{truncated} of {len(table)} {split} rows were truncated to {limit} tokens")
        encoded[split] = datasets.Dataset.from_file(str(path))
        unlearned = _unlearned(encoded[split])
        if unlearned:
            report.warn(
                f"{unlearned} of {len(encoded[split])} {split} sequences have no token that counts in the loss; their "
                "answers may be truncated: raise tokenization.max_length"
            )
        findings[split] = {
            "rows": len(table),
            "cut": truncated,
            "cut_share": round(truncated / len(table), 4),
            "unlearned": unlearned,
            **_spread(encoded[split]),
        }
    report.preflight(tokens=findings)
    return encoded


def lengths(encoded: datasets.Dataset | pa.Table) -> list[int]:
    """Tokens of each sequence; where it has several parts, of all of them."""
    counts = [cast("Any", pc).list_value_length(part).to_numpy() for part in input_ids(encoded)]
    return cast("list[int]", np.sum(counts, axis=0).tolist())


def input_ids(encoded: datasets.Dataset | pa.Table) -> list[Any]:
    """The columns of tokens, one for each part of a sequence."""
    columns = cast("Any", encoded if isinstance(encoded, pa.Table) else encoded.data)
    return [columns.column(name) for name in encoded.column_names if name.endswith("input_ids")]


def compact(features: dict[str, list[Any]]) -> pa.Table:
    """Encoded rows in Arrow, as training takes them."""
    # Token ids fit into 32 bits, half of what Python's integers would take on disk and in memory.
    columns = {name: pa.array(values) for name, values in features.items()}
    lists = {
        name: values.cast(pa.list_(pa.int32()))
        for name, values in columns.items()
        if pa.types.is_list(values.type) and pa.types.is_integer(values.type.value_type)
    }
    return pa.table({**columns, **lists})


def _unlearned(encoded: datasets.Dataset) -> int:
    """How many sequences have labels that are all ignored. 0 where the labels are not one for each token."""
    if "labels" not in encoded.column_names:
        return 0
    labels = cast("Any", encoded.data).column("labels").combine_chunks()
    if not pa.types.is_list(labels.type) or not pa.types.is_integer(labels.type.value_type):
        return 0
    is_learned = np.append(labels.flatten().to_numpy() != IGNORE_INDEX, False)
    counts = np.add.reduceat(is_learned, labels.offsets.to_numpy()[:-1] - labels.offsets[0].as_py())
    return int(np.count_nonzero(counts == 0))


def _spread(encoded: datasets.Dataset) -> dict[str, Any]:
    # The lengths of the sequences after truncation. Each bin of the histogram counts the sequences up to its edge that
    # are longer than the edge before.
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
        truncated = cache.take(identity, path)
    except EntryBroken:
        report.note(f"{split}: the tokens in the cache were damaged; the rows are tokenized again")
        return None
    except OSError:
        log.warning("the tokens of %s cannot be taken from the cache", split, exc_info=True)
        return None
    if truncated is not None:
        report.note(f"{split}: {len(table)} rows were tokenized before; taken from the cache")
    return truncated


def _encode(split: str, table: Table, encoder: Encoder, path: Path, report: Reporter, stop: threading.Event) -> int:
    """Write the tokens of all rows to `path`; returns how many rows were truncated."""
    # The file at this path may be a hard link to an entry of the cache, and must not be written into.
    path.unlink(missing_ok=True)
    truncated = 0
    writer: pa.RecordBatchStreamWriter | None = None
    for start in range(0, len(table), BATCH):
        if stop.is_set():
            raise Stopped
        report.alive()
        features = encoder.encode(table[start : start + BATCH], split)
        truncated += sum(features.pop("truncated"))
        if PLACE in features:
            features[PLACE] = [start + place for place in features[PLACE]]
        batch = compact(features)
        writer = writer or pa.ipc.new_stream(path, batch.schema)
        writer.write_table(batch)
    if writer is not None:
        writer.close()
    return truncated


def _keep(
    cache: TokenCache, identity: Identity, path: Path, split: str, table: Table, truncated: int, report: Reporter
) -> None:
    # The cache only helps later jobs, so an error in it never fails this one.
    try:
        if not cache.keep(identity, path, rows=len(table), truncated=truncated):
            log.info("the tokens of %s are larger than the limit of the cache", split)
    except OSError as error:
        log.warning("the tokens of %s cannot be kept in the cache", split, exc_info=True)
        report.note(f"{split}: the tokens were not kept for later jobs: {error.strerror or type(error).__name__}")
