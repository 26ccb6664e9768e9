"""Reads csv and tsv: a header, then rows of as many cells; strict about quotes."""

import csv
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from app.datasets.batch import BYTES, ROWS, Batch
from app.datasets.columns import check_columns
from app.datasets.errors import UnusableFile
from app.datasets.source import Source, Watched

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = {"csv": ",", "tsv": "\t"}
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", ",": "commas"}


def csv_batches(source: Source, delimiter: str) -> Iterator[Batch]:
    """Yield the rows as text, blank lines left out. Raises UnusableFile with the line."""
    csv.field_size_limit(source.limits.record_bytes)
    with source.open() as watched:
        reader = csv.reader(watched.lines_of_text(), delimiter=delimiter, strict=True)
        try:
            header = _header(reader, delimiter, source.limits.columns)
            yield from _batches(reader, header, watched)
        except UnicodeDecodeError:
            raise source.find_bad_utf8() from None
        except _BrokenQuote as error:
            raise _broken(source, delimiter, error) from None


class _BrokenQuote(Exception):
    """What the csv module says, and the last line of the row before."""

    def __init__(self, reason: str, after: int, seen: int) -> None:
        super().__init__(reason)
        self.reason, self.after, self.seen = reason, after, seen


def _header(reader: "Reader", delimiter: str, limit: int) -> list[str]:
    try:
        cells = next((row for row in reader if row), None)
    except csv.Error as error:
        raise _BrokenQuote(str(error), 0, reader.line_num) from error
    if cells is None:
        raise UnusableFile("the file holds no header and no rows", "empty")
    names = [name.strip() for name in cells]
    other = next((mark for mark in OTHER_DELIMITERS if mark != delimiter and mark in names[0]), None)
    if len(names) == 1 and other is not None:
        raise UnusableFile(
            f"the header is the one name '{names[0][:100]}'; the cells seem to be parted by {OTHER_DELIMITERS[other]}",
            "header",
            line=reader.line_num,
            hint="csv is parted by commas, tsv by tabs",
        )
    check_columns(names, limit, line=reader.line_num)
    return names


def _batches(reader: "Reader", header: list[str], watched: Watched) -> Iterator[Batch]:
    width, start = len(header), 1
    rows: list[list[str]] = []
    lines: list[int] = []
    before, began = reader.line_num, watched.offset
    try:
        for row in reader:
            if len(row) == width:
                rows.append(row)
                lines.append(before + 1)
            elif row:
                raise _ragged(row, header, start + len(rows), before + 1)
            before = reader.line_num
            if len(rows) == ROWS or watched.offset - began > BYTES:
                if rows:
                    yield _batch(start, lines, header, rows)
                start += len(rows)
                rows, lines, began = [], [], watched.offset
    except csv.Error as error:
        raise _BrokenQuote(str(error), before, reader.line_num) from error
    if rows:
        yield _batch(start, lines, header, rows)


def _batch(start: int, lines: list[int], header: list[str], rows: list[list[str]]) -> Batch:
    return Batch(start, lines, lines, dict(zip(header, zip(*rows, strict=True), strict=True)))


def _ragged(row: list[str], header: list[str], number: int, line: int) -> UnusableFile:
    return UnusableFile(
        f"line {line} has {len(row)} {'cell' if len(row) == 1 else 'cells'}, the header has {len(header)}",
        "ragged_row",
        row=number,
        line=line,
        hint='a cell that holds the separator or a line break must stand in "double quotes"',
    )


def _broken(source: Source, delimiter: str, error: _BrokenQuote) -> UnusableFile:
    opened = _open_quote(source, delimiter, error.after, error.seen)
    hint = 'a cell that starts with " must end with one, and a " inside it is written twice'
    if "field larger" in error.reason:
        limit = f"{source.limits.record_bytes:,} characters"
        message = f"a cell in line {opened} is longer than {limit}; is its quote ever closed?"
        return UnusableFile(message, "too_long", line=opened, hint=hint)
    if "unexpected end" in error.reason:
        return UnusableFile(f"the quote opened in line {opened} is never closed", "quote", line=opened, hint=hint)
    message = f"line {error.seen} goes on after a closing quote; that cell's quote was opened in line {opened}"
    return UnusableFile(message, "quote", line=error.seen, hint=hint)


def _open_quote(source: Source, delimiter: str, after: int, seen: int) -> int:
    # The csv module does not say where a quote was opened: look at the lines of the broken row again.
    inside, opened = False, after + 1
    with source.open() as watched:
        for number, text in islice(enumerate(watched.lines_of_text(), start=1), after, seen):
            position = 0
            while position >= 0:
                if not inside:
                    if not text.startswith('"', position):
                        position = _past(text, delimiter, position)
                        continue
                    inside, opened, position = True, number, position + 1
                position = _past(text, '"', position)
                if position < 0:
                    continue
                inside = text.startswith('"', position)
                if not inside and not text.startswith(delimiter, position):
                    break
                position += 1
    return opened


def _past(text: str, mark: str, position: int) -> int:
    found = text.find(mark, position)
    return found + 1 if found >= 0 else -1
