"""Reads Parquet by row groups and converts its types to the few that training supports."""

# pyright: standard, reportAttributeAccessIssue=false
# pyarrow carries no types, and makes its compute functions when it is imported.

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.datasets.batch import ROWS
from app.datasets.columns import check_columns
from app.datasets.errors import UnusableFile
from app.datasets.limits import UploadLimits
from app.datasets.shapes import DEPTH_LIMIT

LARGEST_BATCH_BYTES = 1 << 31
"""Text of one column and batch. Arrow counts it with 32 bits."""
SMALL_DECIMAL = 18
"""The number of decimal digits that always fit into 64 bits."""

Check = Callable[[pa.DataType], bool]

PLAIN: tuple[tuple[Check, pa.DataType], ...] = (
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_integer, pa.int64()),
    (pa.types.is_floating, pa.float64()),
    (pa.types.is_string, pa.string()),
    (pa.types.is_large_string, pa.string()),
    (pa.types.is_string_view, pa.string()),
    (pa.types.is_null, pa.string()),
    # Points in time become text, such as 2024-05-01 12:00:00.000.
    (pa.types.is_date, pa.string()),
    (pa.types.is_timestamp, pa.string()),
    (pa.types.is_time, pa.string()),
)
"""How types are converted."""

LISTS: tuple[Check, ...] = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


class ParquetRows:
    """A Parquet file: its `schema` after conversion, and its rows in batches of that schema."""

    def __init__(self, path: Path, limits: UploadLimits) -> None:
        """Raises UnusableFile for damaged files, types that cannot be kept, and too many columns or rows."""
        try:
            self._file = pq.ParquetFile(path)
            source = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(error) from error
        if self._file.metadata.num_rows > limits.rows:
            raise UnusableFile(
                f"the file has {self._file.metadata.num_rows:,} rows, the limit is {limits.rows:,}", "too_many_rows"
            )
        check_columns(source.names, limits.columns)
        for part in source:
            _check_shape(part.type, part.name, limits.columns)
        self._record_bytes = limits.record_bytes
        self.schema = pa.schema([(part.name, _kept_as(part.type, part.name)) for part in source])
        self.unpacked = sum(
            self._file.metadata.row_group(group).total_byte_size for group in range(self._file.num_row_groups)
        )
        if self.unpacked > limits.unpacked_bytes:
            raise UnusableFile(f"the file unpacks to more than {limits.unpacked_bytes:,} bytes", "too_large")

    def arrays(self) -> Iterator[list[pa.Array]]:
        """Yield batches of rows, one array a column. Raises UnusableFile with row and column."""
        batches = self._file.iter_batches(batch_size=ROWS, use_threads=False)
        start = 1
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                yield [self._checked(batch.column(part.name), part, start) for part in self.schema]
            except (MemoryError, pa.ArrowCapacityError) as error:
                # A dictionary or a compressed page can be small in the file, and huge in memory.
                rows = f"rows {start} to {start + ROWS - 1}"
                raise UnusableFile(f"{rows} need more memory than an upload may use", "too_large", row=start) from error
            except (pa.ArrowException, OSError, ValueError) as error:
                raise damaged(error) from error
            start += batch.num_rows

    def _checked(self, array: pa.Array, part: pa.Field, start: int) -> pa.Array:
        converted = _converted(array, part, start)
        if converted.nbytes > self._record_bytes:
            _check_cells(converted, part.name, start, self._record_bytes)
        return converted


def damaged(error: Exception) -> UnusableFile:
    """The error for Parquet that cannot be read."""
    reason = str(error).splitlines()[0][:300]
    return UnusableFile(
        f"the Parquet file is damaged or truncated: {reason}", "damaged", hint="write or upload it again"
    )


def _kept_as(kind: pa.DataType, path: str) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _kept_as(kind.storage_type, path)
    if isinstance(kind, pa.DictionaryType):
        return _kept_as(kind.value_type, path)
    if isinstance(kind, (pa.Decimal32Type, pa.Decimal64Type, pa.Decimal128Type, pa.Decimal256Type)):
        return pa.int64() if kind.scale == 0 and kind.precision <= SMALL_DECIMAL else pa.float64()
    if any(check(kind) for check in LISTS):
        return pa.list_(_kept_as(kind.value_type, f"{path}[]"))
    if pa.types.is_struct(kind) and kind.num_fields:
        return pa.struct([(part.name, _kept_as(part.type, f"{path}.{part.name}")) for part in kind])
    for check, kept in PLAIN:
        if check(kind):
            return kept
    raise UnusableFile(
        f"column '{path}' has the type {kind}, which cannot be kept",
        "unsupported_type",
        column=path,
        hint="leave it out, or write it as text, a number, a list or a struct",
    )


def _check_shape(kind: pa.DataType, path: str, columns: int, depth: int = 1) -> None:
    if depth > DEPTH_LIMIT:
        raise UnusableFile(f"column '{path}' is nested deeper than {DEPTH_LIMIT} levels", "too_deep", column=path[:300])
    if pa.types.is_struct(kind):
        if kind.num_fields > columns:
            message = f"column '{path}' has more than {columns:,} different keys"
            raise UnusableFile(message, "too_many_columns", column=path)
        for part in kind:
            _check_shape(part.type, f"{path}.{part.name}", columns, depth + 1)
    elif any(check(kind) for check in LISTS):
        _check_shape(kind.value_type, f"{path}[]", columns, depth + 1)


def _check_cells(array: pa.Array, name: str, start: int, limit: int) -> None:
    for place in range(len(array)):
        if array.slice(place, 1).nbytes > limit:
            row = start + place
            message = f"row {row}: '{name}' has more than {limit:,} bytes"
            raise UnusableFile(message, "too_large", row=row, column=name)


def _converted(array: pa.Array, part: pa.Field, start: int) -> pa.Array:
    try:
        converted = _plain(array).cast(part.type)
        # A Parquet file may claim that any bytes are UTF-8, and any numbers offsets.
        converted.validate(full=True)
    except (MemoryError, pa.ArrowCapacityError):
        raise
    except (pa.ArrowException, ValueError) as error:
        message = f"column '{part.name}', rows {start} to {start + len(array) - 1}: {str(error).splitlines()[0][:200]}"
        raise UnusableFile(message, "bad_value", row=start, column=part.name) from error
    return _without_nan(converted, part.name, start) if part.type == pa.float64() else converted


def _plain(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage)
    if isinstance(array, pa.DictionaryArray):
        # Each use of an entry takes its memory again.
        sizes = pc.binary_length(array.dictionary) if pa.types.is_string(array.dictionary.type) else None
        if sizes is not None and (pc.sum(pc.take(sizes, array.indices)).as_py() or 0) > LARGEST_BATCH_BYTES:
            raise MemoryError
        return array.dictionary_decode()
    return array


def _without_nan(numbers: Any, name: str, start: int) -> pa.Array:
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    first = pc.index(pc.is_finite(numbers), value=False).as_py()
    if first >= 0:
        row = start + first
        raise UnusableFile(f"row {row}: '{name}' is infinite", "not_finite", row=row, column=name)
    return numbers
