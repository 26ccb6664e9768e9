"""Writes rows as the Parquet that everything else reads, and describes its columns."""

# pyright: standard
# pyarrow carries no types.

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from app.datasets.batch import Batch
from app.datasets.columns import FILE, LINE, Column, json_safe
from app.datasets.errors import UnusableFile
from app.datasets.limits import UploadLimits
from app.datasets.parquet_rows import ParquetRows

DISTINCT_LIMIT = 1000
EXAMPLE_CHARACTERS = 200
GROUP_BYTES = 16 << 20
"""The limit of a row group in memory, by the average row of the batch."""

TYPE_NAMES: dict[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int64(): "integer",
    pa.float64(): "number",
    pa.string(): "string",
}
"""Arrow type to the name that users see. Types that are missing here are lists or objects."""


@dataclass(frozen=True)
class Kept:
    """What was written, and the size of the file after decompression (`unpacked`)."""

    rows: int
    columns: list[Column]
    unpacked: int = 0


class Types(Protocol):
    """Finds the types of a file's columns, batch by batch."""

    def learn(self, batch: Batch) -> None: ...
    def schema(self) -> pa.Schema: ...
    def arrays(self, batch: Batch) -> list[pa.Array]: ...


def keep_batches(read: Callable[[], Iterator[Batch]], types: Types, target: Path, limits: UploadLimits) -> Kept:
    """Write rows whose types are known only after reading.

    Raises UnusableFile. Rows are written with the types found so far. When a later row widens a type, the rest is only
    read. Then everything is written in a second pass with the final types.
    """
    kept = _write_while_types_hold(read(), types, target, limits)
    return kept or _write_while_types_hold(read(), types, target, limits) or _nothing()


def keep_parquet(source: ParquetRows, target: Path, limits: UploadLimits) -> Kept:
    """Write the rows of a Parquet file. Raises UnusableFile."""
    with Keeper(target, source.schema, limits) as keeper:
        for arrays in source.arrays():
            keeper.write(arrays, range(keeper.rows + 1, keeper.rows + 1 + len(arrays[0])))
    return replace(keeper.kept(), unpacked=source.unpacked)


def _write_while_types_hold(batches: Iterator[Batch], types: Types, target: Path, limits: UploadLimits) -> Kept | None:
    first = next(batches, None)
    if first is None:
        raise _no_rows()
    types.learn(first)
    with Keeper(target, types.schema(), limits) as keeper:
        keeper.write(types.arrays(first), first.marks)
        for batch in batches:
            types.learn(batch)
            if types.schema() != keeper.schema:
                _learn_the_rest(batches, types, limits)
                return None
            keeper.write(types.arrays(batch), batch.marks)
    return keeper.kept()


def _learn_the_rest(batches: Iterator[Batch], types: Types, limits: UploadLimits) -> None:
    for batch in batches:
        types.learn(batch)
        check_rows(batch.start + batch.rows - 1, limits)


class Keeper(AbstractContextManager["Keeper"]):
    """A Parquet file that is being written, synced to disk at the end.

    Each batch is one row group, or several if it is large. With `files`, the names of the files that the rows come
    from, each row stores the name of its file as `_file`.
    """

    def __init__(self, target: Path, schema: pa.Schema, limits: UploadLimits, files: Sequence[str] = ()) -> None:
        self.schema = schema
        self.rows = 0
        self._limits = limits
        self._counts = [_Counts(part.name, part.type) for part in schema]
        self._file = target.open("wb")
        self._names = pa.array(files, pa.string()) if files else None
        self._full_schema = schema.append(pa.field(LINE, pa.int64()))
        if files:
            self._full_schema = self._full_schema.append(pa.field(FILE, pa.dictionary(pa.int32(), pa.string())))
        self._writer = pq.ParquetWriter(self._file, self._full_schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())

    def write(self, arrays: list[pa.Array], marks: Sequence[int], file: int = 0) -> None:
        """Append rows of the file at that index in `files`, one array for each column.

        Raises UnusableFile for too many rows.
        """
        self.rows += len(marks)
        check_rows(self.rows, self._limits)
        for counts, array in zip(self._counts, arrays, strict=True):
            counts.add(array)
        places = [pa.array(marks, pa.int64())]
        if self._names is not None:
            whence = pa.repeat(pa.scalar(file, pa.int32()), len(marks))
            places.append(pa.DictionaryArray.from_arrays(whence, self._names))
        batch = pa.record_batch([*arrays, *places], schema=self._full_schema)
        # Readers hold one group at a time.
        self._writer.write_batch(batch, row_group_size=max(1, GROUP_BYTES * len(marks) // max(1, batch.nbytes)))

    def kept(self) -> Kept:
        """Return what was written. Raises UnusableFile if there are no rows."""
        if self.rows == 0:
            raise _no_rows()
        if not self._counts:
            raise UnusableFile("the rows have no columns", "empty")
        return Kept(self.rows, [counts.column() for counts in self._counts])


class _Counts:
    def __init__(self, name: str, kind: pa.DataType) -> None:
        self._name = name
        self._kind = kind
        self._nulls = 0
        self._distinct: set[Any] | None = set() if kind in TYPE_NAMES else None
        self._example: Any = None

    def add(self, array: pa.Array) -> None:
        self._nulls += array.null_count
        if self._example is None and array.null_count < len(array):
            self._example = json_safe(array.drop_null()[0].as_py())
        if self._distinct is not None:
            # Beyond the limit, a few more make no difference.
            new = array.unique().drop_null()
            self._distinct.update(new.slice(0, DISTINCT_LIMIT + 1).to_pylist())
            if len(self._distinct) > DISTINCT_LIMIT:
                self._distinct = None

    def column(self) -> Column:
        name = TYPE_NAMES.get(self._kind) or ("list" if pa.types.is_list(self._kind) else "object")
        distinct = None if self._distinct is None else len(self._distinct)
        return Column(self._name, name, self._nulls, distinct, _shortened(self._example))


def _shortened(value: Any) -> Any:
    if not isinstance(value, (str, list, dict)):
        return value
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= EXAMPLE_CHARACTERS:
        return value
    return text[: EXAMPLE_CHARACTERS - 1] + "…"


def check_rows(rows: int, limits: UploadLimits) -> None:
    """Raise UnusableFile for more rows than the limit."""
    if rows > limits.rows:
        raise UnusableFile(f"there are more than {limits.rows:,} rows", "too_many_rows", row=limits.rows + 1)


def _no_rows() -> UnusableFile:
    return UnusableFile("the file has no rows", "empty")


def _nothing() -> Kept:
    raise RuntimeError("the file changed while it was read")
