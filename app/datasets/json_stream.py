"""Reads one JSON array of any length without loading it: value by value from a sliding window of text."""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

from app.datasets.errors import UnusableFile
from app.datasets.source import BLOCK, Source

ROWS_KEY = "data"
LONGEST_TOKEN = 16
"""The number of characters that an escape or a literal may need to be complete."""

SHOWN_NAME = 100
SPACE = re.compile(r"[ \t\r\n]*")


class JsonStream:
    """The rows of a file that is `[…]`, or an object with its rows under "data"."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._decode = strict_decoder().raw_decode
        self._window = ""
        self._at = 0
        self._line = 1
        self._row = 0
        self._ended = False
        self._text: io.TextIOBase = io.StringIO()

    def rows(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the line, the length in characters and the value of each element. Raises UnusableFile."""
        with self._source.open(long_lines=True) as watched:
            self._text = io.TextIOWrapper(io.BufferedReader(watched, BLOCK), encoding="utf-8", newline="")
            opening = self._peek()
            if opening == "[":
                yield from self._elements()
            elif opening == "{":
                yield from self._under_key()
            else:
                raise self._error("must start an array of objects: [{…}, {…}]", "invalid_json")
            if self._peek():
                raise self._after_the_end()

    def _elements(self) -> Iterator[tuple[int, int, Any]]:
        self._skip("[")
        if self._peek() == "]":
            self._skip("]")
            return
        while True:
            self._peek()
            line = self._line
            self._row += 1
            value, size = self._value()
            yield line, size, value
            if self._peek() != ",":
                break
            self._skip(",")
        self._skip("]")

    def _under_key(self) -> Iterator[tuple[int, int, Any]]:
        found = False
        keys: list[str] = []
        self._skip("{")
        while self._peek() == '"':
            key, _ = self._value()
            if key in keys:
                raise doubled(key, None, self._line)
            keys.append(str(key))
            self._skip(":")
            if key == ROWS_KEY and self._peek() == "[":
                found = True
                yield from self._elements()
            else:
                self._peek()
                self._value()
            if self._peek() != ",":
                break
            self._skip(",")
        self._skip("}")
        if not found:
            if self._peek() == "{":
                raise self._after_the_end()
            raise UnusableFile(
                f"the file is an object without an array under '{ROWS_KEY}'; its keys are {', '.join(keys)[:300]}",
                "not_an_array",
                hint='write [{…}, {…}] or {"data": [{…}, {…}]}',
            )

    def _value(self) -> tuple[Any, int]:
        while True:
            try:
                value, end = self._decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error):
                    raise self._located(error) from None
            except RecursionError:
                raise self._error("is nested too deep", "too_deep") from None
            except DuplicateKey as error:
                raise doubled(error.key, self._row or None, self._line) from None
            except ValueError as error:
                raise self._error(f"is not JSON: {error}", "invalid_json") from None
            else:
                # A number at the end of the window may go on.
                if end < len(self._window) or self._ended:
                    size = end - self._at
                    self._move(end)
                    return value, size
            self._grow(max(BLOCK, len(self._window) - self._at))

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        if self._ended or len(self._window) - self._at > self._source.limits.record_bytes:
            return False
        return error.pos > len(self._window) - LONGEST_TOKEN or error.msg.startswith("Unterminated string")

    def _peek(self) -> str:
        """Pass over space and return the next character, or nothing at the end."""
        while True:
            space = SPACE.match(self._window, self._at)
            self._move(space.end() if space else self._at)
            if self._at < len(self._window) or self._ended:
                return self._window[self._at : self._at + 1]
            self._grow(BLOCK)

    def _skip(self, mark: str) -> None:
        found = self._peek()
        if found != mark:
            raise self._error(
                f"is not JSON: expected '{mark}', found {repr(found) if found else 'the end of the file'}",
                "invalid_json",
            )
        self._move(self._at + 1)

    def _move(self, end: int) -> None:
        self._line += self._window.count("\n", self._at, end)
        self._at = end

    def _grow(self, size: int) -> None:
        more = self._text.read(size)
        self._ended = not more
        self._window, self._at = self._window[self._at :] + more, 0

    def _located(self, error: json.JSONDecodeError) -> UnusableFile:
        limit = self._source.limits.record_bytes
        if not self._ended and len(self._window) - self._at > limit:
            return self._error(f"starts a row that is longer than {limit:,} characters, or that never ends", "too_long")
        column = error.pos - self._window.rfind("\n", 0, error.pos)
        self._line += self._window.count("\n", self._at, error.pos)
        return self._error(f"is not JSON at character {column}: {error.msg}", "invalid_json")

    def _error(self, fault: str, code: str) -> UnusableFile:
        return UnusableFile(f"line {self._line} {fault}", code, row=self._row or None, line=self._line)

    def _after_the_end(self) -> UnusableFile:
        return UnusableFile(
            f"line {self._line}: there is more after the end of the JSON value",
            "invalid_json",
            line=self._line,
            hint="a file with one object a line is JSON Lines: name it .jsonl",
        )


class DuplicateKey(ValueError):
    """An object has a key twice, so its value is ambiguous."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def strict_decoder() -> json.JSONDecoder:
    """A decoder that raises DuplicateKey, and ValueError for NaN and the infinities, which are not valid JSON."""
    return json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_distinct)


def doubled(key: str, row: int | None, line: int) -> UnusableFile:
    """The error for an object that has a key twice."""
    return UnusableFile(
        f"line {line}: the key '{key[:SHOWN_NAME]}' occurs twice in one object",
        "duplicate_key",
        row=row,
        line=line,
        column=key[:SHOWN_NAME],
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        raise DuplicateKey(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON; write null for a missing value")
