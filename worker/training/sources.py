"""Reads the rows of a split from where the spec says they are: an uploaded file, the hub, or the spec itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as BUILDERS  # pyright: ignore[reportPrivateUsage]

from app.specs.data import DataSource, HubData, UploadedData
from worker.training.errors import ColumnMissing, DataNotFound, HubUnreachable
from worker.training.table import FILE, LINE, Table, from_arrow, from_rows


def read(split: str, source: DataSource, files: Mapping[str, Path], columns: Mapping[str, str]) -> Table:
    """Read all rows of a split, the columns of its roles only.

    `columns` maps role to column name. Raises DataNotFound, HubUnreachable or ColumnMissing.
    """
    if isinstance(source, UploadedData):
        return _uploaded(split, source, files, columns)
    if isinstance(source, HubData):
        return _hub(split, source, columns)
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


def _hub(split: str, source: HubData, columns: Mapping[str, str]) -> Table:
    rows = _load(source)
    _check_columns(split, rows.column_names, columns)
    features = cast("dict[str, Any]", rows.features)
    named = {name: names for name, kind in features.items() if (names := _class_names(kind))}
    kept = rows.select_columns([name for name in rows.column_names if name in set(columns.values())])
    return from_arrow(cast("pa.Table", kept.with_format("arrow")[:]), named)


def _load(source: HubData) -> datasets.Dataset:
    # `load_dataset` also takes folders of this machine and the names of file formats; a job may name neither.
    if Path(source.hub).exists() or source.hub in BUILDERS or ".." in source.hub:
        raise DataNotFound(f"'{source.hub}' is not the id of a hub dataset")
    try:
        loaded = datasets.load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
    except ConnectionError as error:
        raise HubUnreachable(f"dataset '{source.hub}' could not be fetched: {error}") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise DataNotFound(f"dataset '{source.hub}': {error}") from error
        raise HubUnreachable(f"dataset '{source.hub}' could not be fetched: {error}") from error
    except (ValueError, RuntimeError, DatasetsError) as error:
        # An unknown config or split, or a repository that only holds a loading script.
        raise DataNotFound(f"dataset '{source.hub}': {error}") from error
    return cast("datasets.Dataset", loaded)


def _class_names(kind: Any) -> list[str]:
    # Of a class, or of a list of them, as columns of tags are.
    inner = kind.feature if isinstance(kind, (datasets.List, datasets.LargeList)) else kind
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else []


def _check_columns(split: str, present: list[str], columns: Mapping[str, str]) -> None:
    for role, column in columns.items():
        if column not in present:
            raise ColumnMissing.of(split, role, column, present)


def _wanted(columns: Mapping[str, str]) -> set[str]:
    return {*columns.values(), LINE, FILE, "_row"}
