"""Makes a training request of files on this machine, for runs without a service."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from pydantic import ValidationError

from app.specs import JobSpec, Resolved, problems
from worker.training.checkpoints.folders import newest_valid
from worker.training.request import TrainingRequest

SPLITS = ("train", "eval", "test")


class SpecUnusable(Exception):
    """The spec or a file cannot be used; the message says why."""


def prepare_request(spec_path: Path, out_dir: Path, named_files: list[str], models_dir: Path | None) -> TrainingRequest:
    """Read the spec and the datasets' files; resume from the newest valid checkpoint in `out_dir`.

    `named_files` are `NAME=PATH`, where NAME is what the spec has under `dataset`. Raises SpecUnusable.
    """
    out_dir = out_dir.resolve()
    raw = _read_spec(spec_path)
    files = {name: _parquet(name, path, out_dir / "inputs") for name, path in map(_pair, named_files)}
    datasets = {_dataset_id(name): path for name, path in files.items()}
    _name_datasets_by_id(raw, set(files))
    try:
        spec = JobSpec.model_validate(raw)
    except ValidationError as error:
        listed = "\n".join(f"{problem.param}: {problem.message}" for problem in problems(error, raw))
        raise SpecUnusable(f"{spec_path} is not a job spec:\n{listed}") from error
    checkpoint = newest_valid(out_dir / "checkpoints")
    return TrainingRequest(
        spec=spec,
        out_dir=out_dir,
        datasets=datasets,
        models_dir=models_dir.resolve() if models_dir else None,
        jobs_models={},
        # Without a checkpoint the run starts over, and the spec may have been corrected since.
        resolved=_resolved_before(out_dir, spec) if checkpoint else None,
        resume_from=checkpoint,
        tensorflow_python=_tensorflow_python(),
    )


def _tensorflow_python() -> Path:
    # As the worker's setting of this name, which this command must not import.
    asked, checkout = os.environ.get("TUNESMITH_TENSORFLOW_PYTHON"), Path(__file__).resolve().parents[2]
    return Path(asked).absolute() if asked else checkout / ".venv-tensorflow" / "bin" / "python"


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecUnusable(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise SpecUnusable(f"{path} must hold one JSON object")
    return cast("dict[str, Any]", raw)


def _pair(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise SpecUnusable(f"--dataset {text}: write it as NAME=PATH")
    return name, Path(path)


def _parquet(name: str, path: Path, folder: Path) -> Path:
    if not path.is_file():
        raise SpecUnusable(f"--dataset {name}: there is no file {path}")
    readers = {".csv": pyarrow.csv.read_csv, ".jsonl": pyarrow.json.read_json}
    if path.suffix == ".parquet":
        return path.resolve()
    if path.suffix not in readers:
        raise SpecUnusable(f"--dataset {name}: {path.name} must end in .parquet, .csv or .jsonl")
    try:
        table = readers[path.suffix](path)
    except pa.ArrowException as error:
        raise SpecUnusable(f"--dataset {name}: {path} cannot be read: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{_dataset_id(name)}.parquet"
    pq.write_table(table, target)
    return target


def _dataset_id(name: str) -> str:
    if re.fullmatch(r"ds_[0-9a-z]{26}", name):
        return name
    return f"ds_{hashlib.sha256(name.encode()).hexdigest()[:26]}"


def _name_datasets_by_id(raw: dict[str, Any], names: set[str]) -> None:
    data = raw.get("data")
    for split in SPLITS:
        source = cast("dict[str, Any]", data).get(split) if isinstance(data, dict) else None
        if isinstance(source, dict) and cast("dict[str, Any]", source).get("dataset") in names:
            source["dataset"] = _dataset_id(source["dataset"])


def _resolved_before(out_dir: Path, spec: JobSpec) -> Resolved | None:
    reports = out_dir / "reports.jsonl"
    if not reports.is_file():
        return None
    resolved: Resolved | None = None
    with reports.open(encoding="utf-8") as lines:
        for line in lines:
            if '"type": "resolved"' in line and line.endswith("\n"):
                resolved = Resolved.read(json.loads(line)["resolved"], spec.training.gradient_accumulation)
    return resolved
