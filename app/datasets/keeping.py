"""Writes rows as the Parquet that everything else reads, and counts what is in them."""

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
from app.datasets.limits import Limits
from app.datasets.parquet_rows import ParquetRows

DISTINCT_LIMIT = 1000
EXAMPLE_CHARACTERS = 200
GROUP_BYTES = 16 << 20
"""What a row group holds at most in memory, by the batch's average row."""

TYPE_NAMES: dict[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int64(): "integer",
    pa.float64(): "number",
    pa.string(): "string",
}
"""Arrow type to what users call it; what is missing here is a list or an object."""


@dataclass(frozen=True)
class Kept:
    """What was written, and of how many bytes of the file once `unpacked`."""

    rows: int
    columns: list[Column]
    unpacked: int = 0


class Types(Protocol):
    """Finds the types of a file's columns, batch by batch."""

    def learn(self, batch: Batch) -> None: ...
    def schema(self) -> pa.Schema: ...
    def arrays(self, batch: Batch) -> list[pa.Array]: ...


def keep_batches(read: Callable[[], Iterator[Batch]], types: Types, target: Path, limits: Limits) -> Kept:
    """Write rows whose types show only as they are read. Raises UnusableFile.

    Rows are written as they come, in the types so far. When a later row widens a type, the rest is
    only read, and then everything is written in one more pass: the types are final by then.
    """
    kept = _write_while_types_hold(read(), types, target, limits)
    return kept or _write_while_types_hold(read(), types, target, limits) or _nothing()


def keep_parquet(source: ParquetRows, target: Path, limits: Limits) -> Kept:
    """Write the rows of a Parquet file. Raises UnusableFile."""
    with Keeper(target, source.schema, limits) as keeper:
        for arrays in source.arrays():
            keeper.write(arrays, range(keeper.rows + 1, keeper.rows + 1 + len(arrays[0])))
    return replace(keeper.kept(), unpacked=source.unpacked)


def _write_while_types_hold(batches: Iterator[Batch], types: Types, target: Path, limits: Limits) -> Kept | None:
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


def _learn_the_rest(batches: Iterator[Batch], types: Types, limits: Limits) -> None:
    for batch in batches:
        types.learn(batch)
        check_rows(batch.start + batch.rows - 1, limits)


class Keeper(AbstractContextManager["Keeper"]):
    """A Parquet file in the making: one row group a batch, or several of a large one, synced to disk at the end.

    With `files`, the names of the files that the rows come from, each row keeps the name of its own as `_file`.
    """

    def __init__(self, target: Path, schema: pa.Schema, limits: Limits, files: Sequence[str] = ()) -> None:
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
        """Append rows, one array a column, of the file at that place in `files`. Raises UnusableFile for too many rows."""
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
        """Say what was written. Raises UnusableFile when that is nothing."""
        if self.rows == 0:
            raise _no_rows()
        if not self._counts:
            raise UnusableFile("the rows hold no columns", "empty")
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
            # Beyond the limit a few more make no difference: the head tells.
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


def check_rows(rows: int, limits: Limits) -> None:
    """Raise UnusableFile for more rows than the limit."""
    if rows > limits.rows:
        raise UnusableFile(f"there are more than {limits.rows:,} rows", "too_many_rows", row=limits.rows + 1)


def _no_rows() -> UnusableFile:
    return UnusableFile("the file holds no rows", "empty")


def _nothing() -> Kept:
    raise RuntimeError("the file changed while it was read")
