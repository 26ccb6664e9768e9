"""The process that parses one upload: `python -P -m app.datasets.intake`, a request on stdin, an answer on stdout.

It limits itself before it opens the file. Uploaded bytes are parsed here and nowhere else.
"""

# pyright: standard
# pyarrow carries no types.

import gzip
import json
import math
import resource
import signal
import sys
import tempfile
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from app.datasets.csv_rows import DELIMITERS, csv_batches
from app.datasets.errors import UnusableFile
from app.datasets.formats import Format, detect
from app.datasets.joining import Joint, Part
from app.datasets.json_rows import json_array, json_lines
from app.datasets.keeping import Kept, keep_batches, keep_parquet
from app.datasets.limits import UploadLimits
from app.datasets.parquet_rows import ParquetRows
from app.datasets.shapes import JsonTypes
from app.datasets.source import BLOCK, Source
from app.datasets.texts import TextTypes
from app.disk import NO_ROOM

OUT_OF_MEMORY = "intake_memory"
OUT_OF_DISK = "intake_disk"


def main() -> None:
    """Answer one request: {"files": [{"path", "filename"}], "parquet", "parts", "limits"}."""
    request = json.load(sys.stdin)
    limits = UploadLimits(**request["limits"])
    _limit_this_process(limits)
    try:
        answer = _inspect(request["files"], Path(request["parquet"]), Path(request["parts"]), limits)
    except UnusableFile as error:
        answer = {"error": error.as_dict()}
    except (MemoryError, pa.ArrowMemoryError):
        answer = {"error": {"code": OUT_OF_MEMORY}}
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        answer = {"error": {"code": OUT_OF_DISK}}
    json.dump(answer, sys.stdout)


def keep(source: Path, kind: Format, parquet: Path, limits: UploadLimits) -> Kept:
    """Parse a file and write it as Parquet. Raises UnusableFile."""
    text = Source(source, compressed=kind.compressed, limits=limits)
    match kind.name:
        case "csv" | "tsv":
            kept = keep_batches(lambda: csv_batches(text, DELIMITERS[kind.name]), TextTypes(), parquet, limits)
        case "jsonl":
            kept = keep_batches(lambda: json_lines(text), JsonTypes(limits), parquet, limits)
        case "json":
            kept = keep_batches(lambda: json_array(text), JsonTypes(limits), parquet, limits)
        case _:
            return _keep_parquet(source, kind, parquet, limits)
    return replace(kept, unpacked=text.unpacked)


def _limit_this_process(limits: UploadLimits) -> None:
    seconds = math.ceil(limits.timeout_seconds)
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (2 * seconds, 2 * seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ends this process even when the one that started it is gone.
    signal.alarm(seconds + 5)
    pa.set_cpu_count(2)
    pa.set_io_thread_count(1)


def _inspect(files: list[dict[str, str]], parquet: Path, parts: Path, limits: UploadLimits) -> dict[str, Any]:
    kinds: list[tuple[Format, Kept]] = []
    if len(files) == 1:
        kind = detect(Path(files[0]["path"]), files[0]["filename"])
        kept = keep(Path(files[0]["path"]), kind, parquet, limits)
        kinds.append((kind, kept))
    else:
        joint = Joint(limits)
        for number, file in enumerate(files):
            kind, part = _keep_part(file, parts / f"{number}.parquet", limits)
            joint.add(part)
            kinds.append((kind, part.kept))
        kept = joint.keep(parquet)
    described = [{"format": kind.name, "compressed": kind.compressed, "rows": part.rows} for kind, part in kinds]
    return {"files": described, "rows": kept.rows, "columns": [asdict(column) for column in kept.columns]}


def _keep_part(file: dict[str, str], parquet: Path, limits: UploadLimits) -> tuple[Format, Part]:
    source, filename = Path(file["path"]), file["filename"]
    try:
        kind = detect(source, filename)
        return kind, Part(filename, parquet, keep(source, kind, parquet, limits))
    except UnusableFile as error:
        error.name_file(filename)
        raise


def _keep_parquet(source: Path, kind: Format, parquet: Path, limits: UploadLimits) -> Kept:
    if not kind.compressed:
        return keep_parquet(ParquetRows(source, limits), parquet, limits)
    with tempfile.NamedTemporaryFile(dir=parquet.parent, suffix=".parquet") as unpacked:
        _unpack(source, unpacked, limits)
        return keep_parquet(ParquetRows(Path(unpacked.name), limits), parquet, limits)


def _unpack(source: Path, target: IO[bytes], limits: UploadLimits) -> None:
    try:
        with gzip.open(source) as packed:
            while block := packed.read(BLOCK):
                if target.tell() > limits.unpacked_bytes:
                    message = f"the file unpacks to more than {limits.unpacked_bytes:,} bytes"
                    raise UnusableFile(message, "too_large")
                target.write(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnusableFile(f"the gzip data is damaged or truncated: {error}", "damaged") from error
    target.flush()


if __name__ == "__main__":
    main()
