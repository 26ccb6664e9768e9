"""Looks into the Parquet of a dataset, one row group at a time."""

# pyright: standard
# pyarrow carries no types.

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow.parquet as pq

from app.datasets.batch import ROWS
from app.specs.labels import label_name, ordered

CLASS_LIMIT = 1000


def preview(parquet: Path | BinaryIO, start: int, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` rows from row `start`, which counts from 0, as JSON can hold them, `_line` included."""
    with pq.ParquetFile(parquet) as file:
        rows: list[dict[str, Any]] = []
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            skip = max(0, start - first)
            if skip < size and len(rows) < limit:
                table = file.read_row_group(group, use_threads=False)
                rows += table.slice(skip, limit - len(rows)).to_pylist()
            first += size
    return [cast("dict[str, Any]", _json_safe(row)) for row in rows]


def class_counts(parquet: Path | BinaryIO, column: str) -> dict[str, int] | None:
    """Count the rows of each class name of a label column, in the order of class ids.

    Returns None for more than 1,000 classes: the column holds no labels. Raises KeyError without the column.
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


def _json_safe(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_json_safe(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _json_safe(member) for name, member in cast("dict[str, Any]", value).items()}
    return value
