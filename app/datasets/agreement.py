"""Whether the files of one upload fit together: the same columns in each, and one type for each column."""

# pyright: standard
# pyarrow carries no types.

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.datasets.columns import Column
from app.datasets.errors import UnusableFile

UNKNOWN = pa.null()
"""The type of a column that has no value in a file. It fits any type."""

NUMBERS = {pa.int64(), pa.float64()}
NAMES: dict[pa.DataType, str] = {
    pa.bool_(): "true or false",
    pa.int64(): "an integer",
    pa.float64(): "a number",
    pa.string(): "a string",
}
SHOWN_COLUMNS = 30


@dataclass(frozen=True)
class Found:
    """The columns of one file by name, each with the type that its values show."""

    file: str
    types: dict[str, pa.DataType]


class _Differ(Exception):
    """Two types that cannot be combined, and the place in the column where they differ."""

    def __init__(self, path: str, known: pa.DataType, new: pa.DataType) -> None:
        super().__init__(path)
        self.path, self.known, self.new = path, known, new


def found(file: str, parquet: Path, columns: Sequence[Column], rows: int) -> Found:
    """The names and types of the columns of a stored file."""
    with pq.ParquetFile(parquet) as kept:
        filled = _filled_leaves(kept.metadata)
        types = [_known(part.type, filled) for part in kept.schema_arrow][: len(columns)]
    return Found(
        file,
        {column.name: UNKNOWN if column.nulls == rows else kind for column, kind in zip(columns, types, strict=True)},
    )


def agreed(before: Sequence[Found], schema: pa.Schema, new: Found) -> pa.Schema:
    """The types that fit the files `before`, which agree on `schema`, and also a new file.

    Integers and numbers become numbers. Objects get the union of their keys. Raises UnusableFile: code `columns_differ`
    or `mixed_types`, with the names of both files and the column.
    """
    _check_columns(before[0], new)
    types: dict[str, pa.DataType] = {}
    for part in schema:
        try:
            types[part.name] = _merged(part.name, part.type, new.types[part.name])
        except _Differ as differ:
            raise _mixed(before, part.name, differ, new) from None
    return pa.schema(list(types.items()))


def final(kind: pa.DataType) -> pa.DataType:
    """The type to store. A column without a value in any file is text."""
    if kind == UNKNOWN:
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(final(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(part.name, final(part.type)) for part in kind])
    return kind


def _filled_leaves(metadata: pq.FileMetaData) -> Iterator[bool]:
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    for leaf in range(metadata.num_columns):
        yield any(group.column(leaf).statistics.num_values for group in groups)


def _known(kind: pa.DataType, filled: Iterator[bool]) -> pa.DataType:
    # Parquet stores the leaves in the order in which this function visits them.
    if pa.types.is_list(kind):
        return pa.list_(_known(kind.value_type, filled))
    if pa.types.is_struct(kind):
        return pa.struct([(part.name, _known(part.type, filled)) for part in kind])
    return kind if next(filled) else UNKNOWN


def _check_columns(first: Found, new: Found) -> None:
    missing = [name for name in first.types if name not in new.types]
    added = [name for name in new.types if name not in first.types]
    if missing:
        near = _nearest(missing[0], added)
        what = f"did you mean '{near}'? Rename it" if near else f"add it; its columns are {_listed(new.types)}"
        message = f"'{new.file}' has no column '{missing[0]}', which '{first.file}' has; {what}"
    elif added:
        message = (
            f"'{new.file}' has the column '{added[0]}', which '{first.file}' has not; leave it out, or add it there"
        )
    else:
        return
    raise UnusableFile(
        message,
        "columns_differ",
        column=(missing or added)[0],
        hint="all files of one dataset have the same columns, in any order",
        file=new.file,
    )


def _nearest(name: str, others: Sequence[str]) -> str | None:
    folded = {other.casefold(): other for other in others}
    near = get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    return ", ".join(list(names)[:SHOWN_COLUMNS]) + more


def _merged(path: str, known: pa.DataType, new: pa.DataType) -> pa.DataType:
    if new in (known, UNKNOWN):
        return known
    if known == UNKNOWN:
        return new
    if {known, new} == NUMBERS:
        return pa.float64()
    if pa.types.is_list(known) and pa.types.is_list(new):
        return pa.list_(_merged(f"{path}[]", known.value_type, new.value_type))
    if pa.types.is_struct(known) and pa.types.is_struct(new):
        kinds = {part.name: part.type for part in known}
        for part in new:
            kinds[part.name] = _merged(f"{path}.{part.name}", kinds.get(part.name, UNKNOWN), part.type)
        return pa.struct(list(kinds.items()))
    raise _Differ(path, known, new)


def _mixed(before: Sequence[Found], column: str, differ: _Differ, new: Found) -> UnusableFile:
    other = before[0].file
    # The types so far come from all earlier files. Only a comparison with each file shows which one differs.
    for earlier in before:
        try:
            _merged(column, earlier.types[column], new.types[column])
        except _Differ as pair:
            other, differ = earlier.file, pair
            break
    message = (
        f"column '{differ.path}' is {_called(differ.new)} in '{new.file}', but {_called(differ.known)} in '{other}'; "
        "a column has one type in all files: change one of the two"
    )
    return UnusableFile(message, "mixed_types", column=differ.path, file=new.file)


def _called(kind: pa.DataType) -> str:
    return NAMES.get(kind) or ("a list" if pa.types.is_list(kind) else "an object")
