"""Reads the rows of a split from where the spec says they are: an uploaded file, the hub, or the spec itself."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from app.specs.data import DataSource, HubData, UploadedData
from worker.training.errors import ColumnMissing, DataNotFound, NoRows
from worker.training.inputs.hub_rows import class_names, reasons, stream, whole
from worker.training.inputs.table import BATCH, FILE, LINE, Table, from_arrow, from_rows


def read(
    split: str,
    source: DataSource,
    files: Mapping[str, Path],
    columns: Mapping[str, str],
    commit: str | None = None,
) -> Table:
    """Read all rows of a split, the columns of its roles only; of one that is streamed, the first ones.

    `columns` maps role to column name, `commit` is that of a hub dataset where it was settled before.
    Raises DataNotFound, DataNeedsCode, HubUnreachable, ColumnMissing or NoRows.
    """
    if isinstance(source, UploadedData):
        return _uploaded(split, source, files, columns)
    if isinstance(source, HubData):
        return _hub(split, source, columns, commit)
    table = from_rows(source.rows)
    _check_columns(split, list(table.columns), columns)
    return Table({name: cells for name, cells in table.columns.items() if name in _wanted(columns)})


def _uploaded(split: str, source: UploadedData, files: Mapping[str, Path], columns: Mapping[str, str]) -> Table:
    path = files.get(source.dataset)
    if path is None or not path.is_file():
        raise DataNotFound(
            f"the file of dataset {source.dataset} ({split}) is not here", "The dataset may have been deleted."
        )
    try:
        present = pq.read_schema(path).names
        _check_columns(split, present, columns)
        wanted = [name for name in present if name in _wanted(columns)]
        return from_arrow(pq.ParquetFile(path).read(columns=wanted))
    except (pa.ArrowException, OSError) as error:
        raise DataNotFound(f"the file of dataset {source.dataset} ({split}) cannot be read: {error}") from error


def _hub(split: str, source: HubData, columns: Mapping[str, str], commit: str | None) -> Table:
    if source.streaming:
        return _streamed(split, source, columns, commit)
    rows, commit = whole(source, commit)
    _check_columns(split, rows.column_names, columns)
    kept = rows.select_columns([name for name in rows.column_names if name in set(columns.values())])
    return replace(from_arrow(cast("pa.Table", kept.with_format("arrow")[:]), _names(rows.features)), commit=commit)


def _streamed(split: str, source: HubData, columns: Mapping[str, str], commit: str | None) -> Table:
    rows, commit = stream(source, commit)
    names, wanted = _names(rows.features), set(columns.values())

    def tables() -> Iterator[Table]:
        first = 1
        with reasons(source):
            for batch in cast("Iterator[pa.Table]", rows.with_format("arrow").iter(batch_size=BATCH)):
                _check_columns(split, batch.column_names, columns)
                yield from_arrow(batch.select([name for name in batch.column_names if name in wanted]), names, first)
                first += batch.num_rows

    with closing(cast("Generator[Table]", tables())) as some:
        first = next(some, None)
    if first is None:
        raise NoRows(f"{split} has no rows")
    return replace(first, commit=commit, stream=tables)


def _names(features: Any) -> dict[str, list[str]]:
    # A stream may not know its features before the first row.
    return {name: names for name, kind in (features or {}).items() if (names := class_names(kind))}


def _check_columns(split: str, present: list[str], columns: Mapping[str, str]) -> None:
    for role, column in columns.items():
        if column not in present:
            raise ColumnMissing.of(split, role, column, present)


def _wanted(columns: Mapping[str, str]) -> set[str]:
    return {*columns.values(), LINE, FILE, "_row"}
