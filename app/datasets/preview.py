"""Reads the first rows and the classes of a dataset's Parquet, one row group at a time."""

# pyright: standard
# pyarrow carries no types.

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow.parquet as pq

from app.datasets.batch import ROWS
from app.datasets.columns import json_safe
from app.specs.labels import label_name, ordered

CLASS_LIMIT = 1000
PAGE_BYTES = 16 << 20


def preview(parquet: Path | BinaryIO, start: int, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` rows from row `start`, which counts from 0, in a form that JSON can hold, with `_line`.

    Fewer rows are returned if they are large: at least one, and not much more than 16 MiB.
    """
    with pq.ParquetFile(parquet) as file:
        rows: list[dict[str, Any]] = []
        first = taken = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            skip = max(0, start - first)
            if skip < size and len(rows) < limit and taken < PAGE_BYTES:
                piece = file.read_row_group(group, use_threads=False).slice(skip, limit - len(rows))
                rows += piece.to_pylist()
                taken += piece.nbytes
            first += size
    return [cast("dict[str, Any]", json_safe(row)) for row in rows]


def class_counts(parquet: Path | BinaryIO, column: str) -> dict[str, int] | None:
    """Count the rows of each class name of a label column, in the order of class ids.

    Returns None for more than 1,000 classes, because such a column does not have labels. Raises KeyError without the
    column.
    """
    counts: Counter[str] = Counter()
    with pq.ParquetFile(parquet) as file:
        if column not in file.schema_arrow.names:
            raise KeyError(column)
        for cells in _column_batches(file, column):
            counts.update(name for cell in cells if (name := label_name(cell)) is not None)
            if len(counts) > CLASS_LIMIT:
                return None
    return {name: counts[name] for name in ordered(counts)}


def _column_batches(file: pq.ParquetFile, column: str) -> Iterator[list[Any]]:
    for batch in file.iter_batches(batch_size=ROWS, columns=[column], use_threads=False):
        yield batch.column(column).to_pylist()
