"""Joins the files of one upload, each of which is a Parquet already, into one Parquet."""

# pyright: standard
# pyarrow carries no types.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.datasets.agreement import Found, agreed, final, found
from app.datasets.columns import LINE
from app.datasets.errors import UnusableFile
from app.datasets.keeping import Keeper, Kept, check_rows
from app.datasets.limits import UploadLimits


@dataclass(frozen=True)
class Part:
    """One of several files: its name, and its Parquet."""

    file: str
    parquet: Path
    kept: Kept


class Joint:
    """Files that fit together so far."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._parts: list[Part] = []
        self._found: list[Found] = []
        self._schema = pa.schema([])

    def add(self, part: Part) -> None:
        """Add the next file.

        Raises UnusableFile if it does not fit the earlier files, or if all together are too large.
        """
        new = found(part.file, part.parquet, part.kept.columns, part.kept.rows)
        self._schema = agreed(self._found, self._schema, new) if self._found else pa.schema(list(new.types.items()))
        self._parts.append(part)
        self._found.append(new)
        check_rows(sum(part.kept.rows for part in self._parts), self._limits)
        if sum(part.kept.unpacked for part in self._parts) > self._limits.unpacked_bytes:
            message = f"the files unpack to more than {self._limits.unpacked_bytes:,} bytes together"
            raise UnusableFile(message, "too_large", hint="create several datasets of them")

    def keep(self, target: Path) -> Kept:
        """Write the rows of all files, one file after the other, and remove the separate files.

        Raises UnusableFile for an integer that a double cannot represent exactly.
        """
        schema = pa.schema([(part.name, final(part.type)) for part in self._schema])
        with Keeper(target, schema, self._limits, [part.file for part in self._parts]) as keeper:
            for number, part in enumerate(self._parts):
                for arrays, lines in _groups(part, schema):
                    keeper.write(arrays, lines, number)
                part.parquet.unlink()
        return keeper.kept()


def _groups(part: Part, schema: pa.Schema) -> Iterator[tuple[list[pa.Array], Sequence[int]]]:
    first = 1
    with pq.ParquetFile(part.parquet) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, use_threads=False).combine_chunks()
            lines = rows.column(LINE).to_pylist()
            yield [_brought(_whole(rows, wanted), wanted, part.file, first, lines) for wanted in schema], lines
            first += rows.num_rows


def _whole(rows: pa.Table, wanted: pa.Field) -> pa.Array:
    chunks = rows.column(wanted.name).chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


def _brought(array: pa.Array, wanted: pa.Field, file: str, first: int, lines: Sequence[int]) -> pa.Array:
    if array.type == wanted.type:
        return array
    if array.null_count == len(array):
        return pa.nulls(len(array), wanted.type)
    cells = array.to_pylist()
    try:
        return pa.array(cells, wanted.type)
    except pa.ArrowException:
        # The error of a whole column names no row.
        place = next(place for place, cell in enumerate(cells) if not _fits(cell, wanted.type))
        raise UnusableFile(
            f"'{file}', row {first + place} (line {lines[place]}): '{wanted.name}' has an integer that is too "
            f"large for a decimal number, and the column has decimal numbers in another file",
            "bad_value",
            row=first + place,
            line=lines[place],
            column=wanted.name,
            hint="write all of them as integers, or all as text",
            file=file,
        ) from None


def _fits(cell: object, kind: pa.DataType) -> bool:
    try:
        pa.array([cell], kind)
    except pa.ArrowException:
        return False
    return True
