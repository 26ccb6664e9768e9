"""Rows become tokens once, in batches, in Arrow files that training maps into memory."""

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
from worker.training.tasks.protocol import PLACE, Task


def tokenize(
    splits: dict[str, Table],
    task: Task,
    tokenizer: Any,
    spec: JobSpec,
    resolved: Resolved,
    scratch: Path,
    report: Reporter,
    stop: threading.Event,
) -> dict[str, datasets.Dataset]:
    """Encode every split into `scratch`. Raises RowTooLong, or Stopped between two batches."""
    scratch.mkdir(parents=True, exist_ok=True)
    encoded: dict[str, datasets.Dataset] = {}
    for split, table in splits.items():
        path, cut, done = scratch / f"tokens-{split}.arrow", 0, 0
        writer: pa.RecordBatchStreamWriter | None = None
        for rows in table.batches():
            if stop.is_set():
                raise Stopped
            report.alive()
            features = task.encode(rows, tokenizer, spec, resolved.labels, resolved.max_length, split)
            cut += sum(features.pop("cut"))
            if PLACE in features:
                features[PLACE] = [done + place for place in features[PLACE]]
            done += len(rows)
            batch = _compact(features)
            writer = writer or pa.ipc.new_stream(path, batch.schema)
            writer.write_table(batch)
        if writer is not None:
            writer.close()
        if cut:
            report.note(f"{cut} of {len(table)} {split} rows were cut to {resolved.max_length} tokens")
        encoded[split] = datasets.Dataset.from_file(str(path))
    return encoded


def lengths(encoded: datasets.Dataset) -> list[int]:
    """Tokens of each row."""
    columns = cast("Any", encoded.data)
    return cast("list[int]", cast("Any", pc).list_value_length(columns.column("input_ids")).to_pylist())


def _compact(features: dict[str, list[Any]]) -> pa.Table:
    # Token ids fit 32 bits: half of what Python's integers would take on disk and in memory.
    columns = {name: pa.array(values) for name, values in features.items()}
    lists = {
        name: values.cast(pa.list_(pa.int32())) for name, values in columns.items() if pa.types.is_list(values.type)
    }
    return pa.table({**columns, **lists})
