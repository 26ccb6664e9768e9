"""Types for columns that are text in the file: csv and tsv."""

# pyright: standard, reportAttributeAccessIssue=false
# pyarrow carries no types, and makes its compute functions when it is imported.

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from app.datasets.batch import Batch

INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
NUMBER = r"^-?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
BOOLEAN = r"^(true|false|True|False|TRUE|FALSE)$"

PATTERNS: dict[pa.DataType, str] = {pa.int64(): INTEGER, pa.float64(): NUMBER, pa.bool_(): BOOLEAN}
"""Type to the pattern of every cell of such a column, narrowest type first. "007" matches none, and stays text."""

UNKNOWN = pa.null()
"""The type of a column whose cells have all been empty so far."""


class TextTypes:
    """The narrowest type of each column that fits all of its cells. An empty cell is null and fits any."""

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType] = {}

    def learn(self, batch: Batch) -> None:
        """Widen the types so that they fit this batch too."""
        for name, cells in batch.columns.items():
            known = self._types.get(name, UNKNOWN)
            if known != pa.string():
                self._types[name] = _widened(known, _texts(cells))

    def schema(self) -> pa.Schema:
        """Return the types as they are now; a column without any cell is text."""
        return pa.schema([(name, pa.string() if kind == UNKNOWN else kind) for name, kind in self._types.items()])

    def arrays(self, batch: Batch) -> list[pa.Array]:
        """Convert a batch to the types of `schema`."""
        schema = self.schema()
        return [_converted(_texts(cells), schema.field(name).type) for name, cells in batch.columns.items()]


def _texts(cells: Sequence[Any]) -> pa.Array:
    texts = pa.array(cells, pa.string())
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _widened(known: pa.DataType, texts: pa.Array) -> pa.DataType:
    if texts.null_count == len(texts):
        return known
    candidates = [kind for kind in PATTERNS if known in (UNKNOWN, kind) or _is_wider(kind, known)]
    return next((kind for kind in candidates if _fits(texts, kind)), pa.string())


def _is_wider(kind: pa.DataType, known: pa.DataType) -> bool:
    return kind == pa.float64() and known == pa.int64()


def _fits(texts: pa.Array, kind: pa.DataType) -> bool:
    if not pc.all(pc.match_substring_regex(texts, PATTERNS[kind])).as_py():
        return False
    # 1e999 looks like a number, but is infinite.
    return kind != pa.float64() or bool(pc.all(pc.is_finite(texts.cast(kind))).as_py())


def _converted(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if kind == pa.bool_():
        return pc.equal(pc.utf8_lower(texts), "true")
    return texts.cast(kind)
