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
        check_columns(source.names, limits.columns)
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
            except (pa.ArrowException, OSError, ValueError) as error:
                raise damaged(error) from error
            if batch is None:
                return
            yield [_converted(batch.column(part.name), part, start) for part in self.schema]
            start += batch.num_rows


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


def _converted(array: pa.Array, part: pa.Field, start: int) -> pa.Array:
    try:
        converted = _plain(array).cast(part.type)
        # A Parquet file may claim that any bytes are UTF-8, and any numbers offsets.
        converted.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        message = f"column '{part.name}', rows {start} to {start + len(array) - 1}: {str(error).splitlines()[0][:200]}"
        raise UnusableFile(message, "bad_value", row=start, column=part.name) from error
    return _without_nan(converted, part.name, start) if part.type == pa.float64() else converted


def _plain(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage)
    if isinstance(array, pa.DictionaryArray):
        return array.dictionary_decode()
    return array


def _without_nan(numbers: Any, name: str, start: int) -> pa.Array:
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    first = pc.index(pc.is_finite(numbers), value=False).as_py()
    if first >= 0:
        row = start + first
        raise UnusableFile(f"row {row}: '{name}' is infinite", "not_finite", row=row, column=name)
    return numbers
