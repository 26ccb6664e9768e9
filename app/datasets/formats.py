"""The format of a file: by its name, and confirmed by its first bytes."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from app.datasets.errors import UnusableFile

EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
"""File name ending to format; each may be followed by .gz."""

GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
FOREIGN = {
    GZIP: "gzip",
    PARQUET: "Parquet",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"%PDF": "PDF",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x00\x00\xfe\xff": "UTF-32 text",
}
"""First bytes of files that are not UTF-8 text, and what the files are."""


@dataclass(frozen=True)
class Format:
    """`name` is one of csv, tsv, json, jsonl, parquet; `compressed` whether it is gzipped."""

    name: str
    compressed: bool


def detect(source: Path, filename: str) -> Format:
    """Detect a file's format.

    Raises UnusableFile if the file name ending is unknown or the content has another format.
    """
    kind = _by_name(filename)
    with source.open("rb") as file:
        head = file.read(8)
    if not head:
        raise UnusableFile("the file is empty", "empty")
    if kind.compressed and not head.startswith(GZIP):
        raise UnusableFile(f"'{filename}' is named .gz but is not gzip", "wrong_format", hint="drop .gz from the name")
    _check_content(_unpacked_head(source) if kind.compressed else head, kind, filename)
    return kind


def _by_name(filename: str) -> Format:
    lowered = filename.lower()
    compressed = lowered.endswith(".gz")
    name = EXTENSIONS.get(Path(lowered.removesuffix(".gz")).suffix)
    if name is None:
        raise UnusableFile(
            f"'{filename}' has no known file name ending",
            "unknown_format",
            hint=f"known are {', '.join(EXTENSIONS)}, each also with .gz",
        )
    return Format(name, compressed)


def _unpacked_head(source: Path) -> bytes:
    try:
        with gzip.open(source) as file:
            return file.read(8)
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableFile(f"the gzip data is damaged: {error}", "damaged", hint="pack or upload it again") from error


def _check_content(head: bytes, kind: Format, filename: str) -> None:
    if kind.name == "parquet":
        if head.startswith(PARQUET):
            return
        raise UnusableFile(f"'{filename}' does not start as Parquet does", "wrong_format")
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            text = what.endswith("text")
            hint = "save it as UTF-8" if text else f"known are {', '.join(EXTENSIONS)}, each also with .gz"
            code = "encoding" if text else "wrong_format"
            raise UnusableFile(f"'{filename}' is named as {kind.name} but is {what}", code, hint=hint)
