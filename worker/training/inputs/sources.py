"""Reads the rows of a split from the place that the spec names: an uploaded file, a hub dataset, or the spec itself.

Of a hub dataset, one configuration is read at one commit, and of that a split or a slice.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import datasets
import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import config as datasets_config
from datasets.exceptions import DatasetsError
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as BUILDERS  # pyright: ignore[reportPrivateUsage]
from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from app.specs.data import DataSource, HubData, UploadedData
from worker.training.downloads import reported
from worker.training.errors import NO_ROOM, ColumnMissing, DataNeedsCode, DataNotFound, HubUnreachable, NoRows, nearest
from worker.training.inputs.table import BATCH, FILE, LINE, ROW, Column, Table
from worker.training.reports import Reporter

SCRIPT = "Dataset scripts are no longer supported"
"""How `datasets` says that a repository needs code of its own."""
STREAM_TRIES = 4
"""How often a broken stream is opened again, half a minute each. Then the attempt ends and is retried."""


def read(
    split: str,
    source: DataSource,
    files: Mapping[str, Path],
    columns: Mapping[str, str],
    report: Reporter,
    commit: str | None = None,
) -> Table:
    """Read all rows of a split, or the first ones of a streamed split. Only the columns of its roles are read.

    `columns` maps role to column name. `commit` is the commit of a hub dataset that an earlier attempt pinned.
    Raises DataNotFound, DataNeedsCode, HubUnreachable, ColumnMissing or NoRows.
    """
    if isinstance(source, UploadedData):
        return _uploaded(split, source, files, columns)
    if isinstance(source, HubData):
        if source.streaming:
            return _streamed(split, source, columns, commit)
        return _hub(split, source, columns, report, commit)
    table = from_rows(source.rows)
    wanted = _wanted(split, list(table.columns), columns, ROW)
    return replace(table, columns={name: table.columns[name] for name in wanted})


def from_rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Take rows as they are written in a spec. A cell that a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row if name not in (ROW, LINE, FILE))
    columns: dict[str, Column] = {name: [row.get(name) for row in rows] for name in names}
    return Table({**columns, ROW: list(range(1, len(rows) + 1))})


def class_names(kind: Any) -> list[str]:
    """The names of a column's classes if it holds class ids or lists of them. `kind` is its feature type in `datasets`."""
    inner = kind.feature if isinstance(kind, (datasets.List, datasets.LargeList)) else kind
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else []


def _uploaded(split: str, source: UploadedData, files: Mapping[str, Path], columns: Mapping[str, str]) -> Table:
    path = files.get(source.dataset)
    if path is None or not path.is_file():
        raise DataNotFound(
            f"the file of dataset {source.dataset} ({split}) is not here", "The dataset may have been deleted."
        )
    try:
        wanted = _wanted(split, pq.read_schema(path).names, columns, LINE, FILE)
        return _from_arrow(pq.ParquetFile(path).read(columns=wanted))
    except (pa.ArrowException, OSError) as error:
        raise DataNotFound(f"the file of dataset {source.dataset} ({split}) cannot be read: {error}") from error


def _hub(split: str, source: HubData, columns: Mapping[str, str], report: Reporter, commit: str | None) -> Table:
    with _translated_errors(source):
        builder = _builder(source, commit)
        blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source.hub, repo_type="dataset") / "blobs"
        # The rows are written into a folder of this name, and renamed at the end.
        prepared = Path(f"{builder.cache_dir}.incomplete")
        with reported(report, f"dataset {source.hub}", [blobs, prepared]):
            builder.download_and_prepare()
        rows = cast("datasets.Dataset", builder.as_dataset(split=cast("Any", source.split)))
    kept = rows.select_columns(_wanted(split, rows.column_names, columns))
    table = _from_arrow(cast("pa.Table", kept.with_format("arrow")[:]), _names_by_column(rows.features))
    return replace(table, commit=str(builder.hash))


def _streamed(split: str, source: HubData, columns: Mapping[str, str], commit: str | None) -> Table:
    with _translated_errors(source):
        builder = _builder(source, commit)
        # The default is 20 tries. They take ten minutes, in which no request to stop is noticed.
        datasets_config.STREAMING_READ_MAX_RETRIES = STREAM_TRIES
        rows = cast("datasets.IterableDataset", builder.as_streaming_dataset(split=source.split))
    names = _names_by_column(rows.features)

    def tables() -> Iterator[Table]:
        first = 1
        with _translated_errors(source):
            for batch in cast("Iterator[pa.Table]", rows.with_format("arrow").iter(batch_size=BATCH)):
                yield _from_arrow(batch.select(_wanted(split, batch.column_names, columns)), names, first)
                first += batch.num_rows

    with closing(cast("Generator[Table]", tables())) as some:
        first = next(some, None)
    if first is None:
        raise NoRows(f"{split} has no rows")
    return replace(first, commit=str(builder.hash), stream=tables)


def _builder(source: HubData, commit: str | None) -> datasets.DatasetBuilder:
    # `datasets` also takes folders of this machine and the names of file formats; a job may name neither.
    if Path(source.hub).exists() or source.hub in BUILDERS or ".." in source.hub:
        raise DataNotFound(f"'{source.hub}' is not the id of a hub dataset")
    revision = commit or source.revision
    found = datasets.load_dataset_builder(source.hub, source.config, revision=revision)
    # If the hub is unreachable, `datasets` takes the newest revision that was ever prepared here.
    if isinstance(found, Cache) and revision is not None and str(found.hash) != revision:
        if _is_offline():
            raise _not_in_cache(source)
        raise HubUnreachable(f"dataset '{source.hub}' at '{revision}' could not be fetched, and is not in the cache")
    return found


@contextmanager
def _translated_errors(source: HubData) -> Iterator[None]:
    """Raises the errors of `datasets` as DataNotFound, DataNeedsCode or HubUnreachable."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataNotFound(f"dataset '{source.hub}': {error}") from error
    except (OSError, httpx2.HTTPError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        if _is_offline():
            raise _not_in_cache(source) from error
        raise HubUnreachable(f"dataset '{source.hub}' could not be fetched: {error}") from error
    except (ValueError, RuntimeError, DatasetsError) as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            raise
        if SCRIPT in str(error):
            raise DataNeedsCode(
                f"dataset '{source.hub}' needs a loading script of its own, and such scripts are never run"
            ) from error
        # An unknown config or split, unreadable files, or a README that does not match the files.
        kind = f"{type(error).__name__}: " if isinstance(error, DatasetsError) else ""
        raise DataNotFound(f"dataset '{source.hub}': {kind}{error}{f': {cause}' if cause else ''}") from error


def _is_offline() -> bool:
    return constants.HF_HUB_OFFLINE or datasets_config.HF_HUB_OFFLINE


def _not_in_cache(source: HubData) -> DataNotFound:
    # Another attempt would not ask the hub either.
    revision = f" at '{source.revision}'" if source.revision else ""
    known = [path.name.replace("___", "/") for path in Path(datasets_config.HF_DATASETS_CACHE).glob("*___*")]
    return DataNotFound(
        f"this worker does not use the hub (HF_HUB_OFFLINE), and its cache does not hold dataset '{source.hub}'{revision}."
        f"{nearest(source.hub, known)}",
        "Check the id of the dataset, or download the dataset into the worker's cache first.",
    )


def _names_by_column(features: Any) -> dict[str, list[str]]:
    """The names of the classes by column, for columns of class ids and of lists of them, such as tags.

    A stream may not know its features before the first row.
    """
    return {name: names for name, kind in (features or {}).items() if (names := class_names(kind))}


def _wanted(split: str, present: list[str], columns: Mapping[str, str], *also: str) -> list[str]:
    """The present columns that a role or `also` names, in their order. Raises ColumnMissing."""
    for role, column in columns.items():
        if column not in present:
            raise ColumnMissing.of(split, role, column, present)
    return [name for name in present if name in {*columns.values(), *also}]


def _from_arrow(table: pa.Table, class_names: Mapping[str, list[str]] | None = None, first: int = 1) -> Table:
    """Take all columns of an Arrow table, and number its rows from `first` on."""
    columns: dict[str, Column] = {name: _wide(name, table.column(name)) for name in table.column_names if name != ROW}
    columns[ROW] = pa.chunked_array([pa.array(range(first, first + table.num_rows), pa.int64())])
    return Table(columns, dict(class_names or {}))


def _wide(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    # Gathering rows of a `string` column fails past 2 GiB of text; `large_string` has no such bound.
    if pa.types.is_string(column.type):
        return column.cast(pa.large_string())
    if pa.types.is_dictionary(column.type) and name != FILE:
        return column.cast(column.type.value_type)
    return column
