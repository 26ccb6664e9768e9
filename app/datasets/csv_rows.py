"""Reads csv and tsv: a header, then rows with the same number of cells. Quoting is strict."""

import csv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from app.datasets.batch import BYTES, ROWS, Batch
from app.datasets.columns import check_columns
from app.datasets.errors import UnusableFile
from app.datasets.source import Source, Watched, is_bad

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = {"csv": ",", "tsv": "\t"}
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", ",": "commas"}


def csv_batches(source: Source, delimiter: str) -> Iterator[Batch]:
    """Yield the rows as text, blank lines left out. Raises UnusableFile with the line."""
    csv.field_size_limit(source.limits.record_bytes)
    with source.open() as watched:
        reader = csv.reader(watched.lines_of_text(), delimiter=delimiter, strict=True)
        header: list[str] = []
        try:
            header = _header(reader, delimiter, source.limits.columns)
            yield from _batches(reader, header, watched)
        except UnicodeDecodeError:
            raise _bad_utf8(source, delimiter) from None
        except _BrokenQuote as error:
            raise _broken(source, delimiter, error, header) from None


class _BrokenQuote(Exception):
    """The error of the csv module, the number of the row (0 is the header), and the last line of the previous row."""

    def __init__(self, reason: str, row: int, after: int, seen: int) -> None:
        super().__init__(reason)
        self.reason, self.row, self.after, self.seen = reason, row, after, seen


@dataclass(frozen=True)
class _Opening:
    """Where a quote was opened: its line, and the place of its cell in the row, from 0."""

    line: int
    cell: int


def _header(reader: "Reader", delimiter: str, limit: int) -> list[str]:
    try:
        cells = next((row for row in reader if row), None)
    except csv.Error as error:
        raise _BrokenQuote(str(error), 0, 0, reader.line_num) from error
    if cells is None:
        raise UnusableFile("the file has no header and no rows", "empty")
    names = [name.strip() for name in cells]
    other = next((mark for mark in OTHER_DELIMITERS if mark != delimiter and mark in names[0]), None)
    if len(names) == 1 and other is not None:
        raise UnusableFile(
            f"the header has only one name, '{names[0][:100]}'; the file seems to be separated by "
            f"{OTHER_DELIMITERS[other]}",
            "header",
            line=reader.line_num,
            hint="csv files are comma-separated, tsv files are tab-separated",
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
        raise _BrokenQuote(str(error), start + len(rows), before, reader.line_num) from error
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
        hint='a cell that contains the separator or a line break must be in "double quotes"',
    )


def _bad_utf8(source: Source, delimiter: str) -> UnusableFile:
    error = source.find_bad_utf8()
    # Other errors of this second pass do not matter; only the place does.
    with suppress(csv.Error, UnusableFile), source.open() as watched:
        header: list[str] = []
        rows = filter(None, csv.reader(watched.lines_of_text("surrogateescape"), delimiter=delimiter))
        for number, row in enumerate(rows):
            header = header or row
            place = next((cell for cell, text in enumerate(row) if is_bad(text)), None)
            if place is not None:
                error.row, error.column = number or None, _column(header, place)
                break
    return error


def _broken(source: Source, delimiter: str, error: _BrokenQuote, header: list[str]) -> UnusableFile:
    opened = _open_quote(source, delimiter, error.after, error.seen)
    hint = 'a cell that starts with " must end with one, and a " inside it is written twice'
    line, code = opened.line, "quote"
    if "field larger" in error.reason:
        limit, code = f"{source.limits.record_bytes:,} characters", "too_long"
        message = f"a cell in line {opened.line} is longer than {limit}; is its quote ever closed?"
    elif "unexpected end" in error.reason:
        message = f"the quote opened in line {opened.line} is never closed"
    else:
        line = error.seen
        message = f"line {line} goes on after a closing quote; that cell's quote was opened in line {opened.line}"
    column = _column(header, opened.cell)
    return UnusableFile(message, code, row=error.row or None, line=line, column=column, hint=hint)


def _column(header: list[str], cell: int) -> str | None:
    if cell >= len(header):
        return None
    return header[cell].strip().encode(errors="surrogateescape").decode(errors="replace")


def _open_quote(source: Source, delimiter: str, after: int, seen: int) -> _Opening:
    # The csv module does not report where a quote was opened, so the lines of the broken row are read again.
    inside, cell, opened = False, 0, _Opening(after + 1, 0)
    with source.open() as watched:
        for number, text in islice(enumerate(watched.lines_of_text(), start=1), after, seen):
            position = 0
            while position >= 0:
                if not inside:
                    if not text.startswith('"', position):
                        position = _past(text, delimiter, position)
                        cell += 1
                        continue
                    inside, opened, position = True, _Opening(number, cell), position + 1
                position = _past(text, '"', position)
                if position < 0:
                    continue
                inside = text.startswith('"', position)
                if not inside and not text.startswith(delimiter, position):
                    break
                cell += not inside
                position += 1
    return opened


def _past(text: str, mark: str, position: int) -> int:
    found = text.find(mark, position)
    return found + 1 if found >= 0 else -1
