"""What the training process is asked to do. It travels as JSON from the worker to its child."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from app.specs import JobSpec, Resolved


@dataclass(frozen=True)
class TrainingRequest:
    """One attempt at one job. All paths are local and absolute."""

    spec: JobSpec
    out_dir: Path
    datasets: dict[str, Path]
    """Dataset id to its Parquet file. A column `_line` (int64), where present, is the line in the user's file."""
    models_dir: Path | None
    """The folder of `local:NAME` models. NAME is one path segment; an operator's symlink is followed."""
    jobs_models: dict[str, Path]
    """The id of an earlier job to the folder with its model, for model ids `job:ID`."""
    resolved: Resolved | None
    """What an earlier attempt resolved. It is reused unchanged. None in the first attempt."""
    resume_from: Path | None
    """A verified checkpoint folder to continue from."""
    job_id: str | None = None
    threads: int | None = None
    """CPU threads to compute with; torch's own choice without it."""
    memory_bytes: int | None = None
    """What the process may allocate; without it, all that there is."""
    tensorflow_python: Path | None = None
    """The interpreter of the environment that has TensorFlow, for the engine `tensorflow`."""
    token_cache: Path | None = None
    """The folder in which tokens are kept for later jobs of this machine; none are without it."""
    token_cache_bytes: int = 0
    """How much may be kept there."""
    compile_cache: Path | None = None
    """The folder in which compiled layers are kept for later jobs of this machine."""

    def to_json(self) -> str:
        """Write the request as one JSON object."""
        return json.dumps(
            {
                "spec": self.spec.model_dump(mode="json"),
                "out_dir": str(self.out_dir),
                "datasets": {key: str(path) for key, path in self.datasets.items()},
                "models_dir": _text(self.models_dir),
                "jobs_models": {key: str(path) for key, path in self.jobs_models.items()},
                "resolved": self.resolved.model_dump(mode="json") if self.resolved else None,
                "resume_from": _text(self.resume_from),
                "job_id": self.job_id,
                "threads": self.threads,
                "memory_bytes": self.memory_bytes,
                "tensorflow_python": _text(self.tensorflow_python),
                "token_cache": _text(self.token_cache),
                "token_cache_bytes": self.token_cache_bytes,
                "compile_cache": _text(self.compile_cache),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "TrainingRequest":
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        raw = cast("dict[str, Any]", json.loads(text))
        return cls(
            spec=JobSpec.from_stored(raw["spec"]),
            out_dir=Path(raw["out_dir"]),
            datasets={key: Path(path) for key, path in raw["datasets"].items()},
            models_dir=_path(raw["models_dir"]),
            jobs_models={key: Path(path) for key, path in raw["jobs_models"].items()},
            resolved=Resolved.model_validate(raw["resolved"]) if raw["resolved"] else None,
            resume_from=_path(raw["resume_from"]),
            job_id=raw["job_id"],
            threads=raw["threads"],
            memory_bytes=raw["memory_bytes"],
            tensorflow_python=_path(raw["tensorflow_python"]),
            token_cache=_path(raw["token_cache"]),
            token_cache_bytes=raw["token_cache_bytes"],
            compile_cache=_path(raw["compile_cache"]),
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
