"""Types for columns whose values have types, as in JSON. Nested lists and objects are typed down to the leaves."""

# pyright: standard
# pyarrow carries no types.

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa

from app.datasets.batch import Batch
from app.datasets.columns import check_columns, is_text
from app.datasets.errors import UnusableFile
from app.datasets.limits import UploadLimits

DEPTH_LIMIT = 32
INTEGERS = range(-(2**63), 2**63)

KINDS: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "list",
    dict: "object",
}
SCALARS: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "string": pa.string(),
}
PLAIN: dict[str, set[type]] = {"string": {str}, "integer": {int}, "number": {int}, "boolean": {bool}}
"""Kind to the kinds that it accepts without a further check.

Whether integers fit is checked when they are converted.
"""

ARTICLES = {"integer": "an integer", "object": "an object"}


@dataclass
class Shape:
    """What was found at one path of the rows, and where it was first found.

    `kind` is empty while all values are null.
    """

    kind: str = ""
    where: str = ""
    items: "Shape | None" = None
    fields: "dict[str, Shape]" = field(default_factory=dict[str, "Shape"])

    def arrow(self, path: str) -> pa.DataType:
        """Return the Arrow type. Raises UnusableFile for objects that never have a key."""
        if self.kind == "list":
            return pa.list_(self.items.arrow(f"{path}[]") if self.items else pa.string())
        if self.kind != "object":
            return SCALARS.get(self.kind, pa.string())
        if not self.fields:
            raise UnusableFile(
                f"every object in '{path}' is empty, first in {self.where}",
                "empty_object",
                column=path,
                hint="leave it out",
            )
        return pa.struct([(name, shape.arrow(f"{path}.{name}")) for name, shape in self.fields.items()])


class JsonTypes:
    """The type of each column. Integers and decimals become numbers; any other mixture is an error."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._shapes: dict[str, Shape] = {}

    def learn(self, batch: Batch) -> None:
        """Add a batch. Raises UnusableFile with line and column: code `mixed_types`, `not_finite`, …."""
        new = [name for name in batch.columns if name not in self._shapes]
        if new:
            check_columns([*self._shapes, *new], self._limits.columns, line=batch.lines[-1])
        for name, cells in batch.columns.items():
            shape = self._shapes.setdefault(name, Shape())
            # Most columns have one plain type, so the set of types is enough.
            if (set(map(type, cells)) - {type(None)}) <= PLAIN.get(shape.kind, set()):
                continue
            for row, (cell, line) in enumerate(zip(cells, batch.lines, strict=True), start=batch.start):
                if cell is not None:
                    self._take(shape, cell, _Place(name, row, line))

    def schema(self) -> pa.Schema:
        """Return the types as they are now; a column of nulls alone is text."""
        return pa.schema([(name, shape.arrow(name)) for name, shape in self._shapes.items()])

    def arrays(self, batch: Batch) -> list[pa.Array]:
        """Convert a batch to the types of `schema`; a column that it lacks is null."""
        nothing = [None] * batch.rows
        return [_converted(name, batch, batch.columns.get(name, nothing), kind) for name, kind in _pairs(self.schema())]

    def _take(self, shape: Shape, value: Any, place: "_Place") -> None:
        kind = KINDS[type(value)]
        if not shape.kind:
            shape.kind, shape.where = kind, place.where
        elif shape.kind != kind:
            _mix(shape, kind, place)
        if kind == "list":
            self._take_list(shape, cast("list[Any]", value), place)
        elif kind == "object":
            self._take_object(shape, cast("dict[str, Any]", value), place)
        elif (kind == "number" and not math.isfinite(value)) or (kind == "integer" and value not in INTEGERS):
            raise place.error(f"is {str(value)[:40]}, which does not fit 64 bits", "not_finite")

    def _take_list(self, shape: Shape, items: list[Any], place: "_Place") -> None:
        shape.items = shape.items or Shape()
        inner = place.inside("[]")
        for item in items:
            if item is not None:
                self._take(shape.items, item, inner)

    def _take_object(self, shape: Shape, members: dict[str, Any], place: "_Place") -> None:
        for name, member in members.items():
            inner = place.inside(f".{name}")
            if name not in shape.fields:
                if len(shape.fields) == self._limits.columns:
                    raise place.error(f"has more than {self._limits.columns:,} different keys", "too_many_columns")
                if not is_text(name):
                    raise place.error("has a key with a lone surrogate or NUL, which is not valid text", "bad_value")
                shape.fields[name] = Shape()
            if member is not None:
                self._take(shape.fields[name], member, inner)


@dataclass(frozen=True)
class _Place:
    path: str
    row: int
    line: int
    depth: int = 0

    def inside(self, step: str) -> "_Place":
        if self.depth == DEPTH_LIMIT:
            raise self.error(f"is nested deeper than {DEPTH_LIMIT} levels", "too_deep")
        return _Place(self.path + step, self.row, self.line, self.depth + 1)

    @property
    def where(self) -> str:
        return f"row {self.row} (line {self.line})"

    def error(self, message: str, code: str) -> UnusableFile:
        return UnusableFile(
            f"{self.where}: '{self.path}' {message}", code, row=self.row, line=self.line, column=self.path
        )


def _mix(shape: Shape, kind: str, place: _Place) -> None:
    if {shape.kind, kind} != {"integer", "number"}:
        message = f"is {_a(kind)}, but {_a(shape.kind)} in {shape.where}; a column has one type"
        raise place.error(message, "mixed_types")
    shape.kind = "number"


def _a(kind: str) -> str:
    return ARTICLES.get(kind, f"a {kind}")


def _pairs(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(part.name, part.type) for part in schema]


def _converted(name: str, batch: Batch, cells: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(cells, kind)
    except (UnicodeEncodeError, pa.ArrowException, OverflowError):
        # The error of a whole column names no row.
        for row, (cell, line) in enumerate(zip(cells, batch.lines, strict=True), start=batch.start):
            if (reason := _refusal(cell, kind)) is not None:
                raise _Place(name, row, line).error(reason, "bad_value") from None
        raise


def _refusal(cell: Any, kind: pa.DataType) -> str | None:
    try:
        pa.array([cell], kind)
    except UnicodeEncodeError:
        return "contains a lone surrogate, which is not valid text"
    except (pa.ArrowException, OverflowError) as error:
        return f"cannot be kept: {str(error)[:200]}"
    return None
