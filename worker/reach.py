"""What a training process needs of the machine, by its request."""

from dataclasses import dataclass
from pathlib import Path

from app.specs.data import HubData
from worker.sandbox import Mode, Reach
from worker.training.request import TrainingRequest


@dataclass(frozen=True)
class SandboxSettings:
    """What the operator says about the sandbox."""

    mode: Mode
    readable: list[Path]
    writable: list[Path]
    """Besides what a job needs."""
    hidden: list[Path]
    """The folders of the service."""


def reach_of(request: TrainingRequest, gpu: str | None, settings: SandboxSettings) -> Reach:
    """Its own folder and caches to write; its model, its rows and the libraries to read; the network for the hub."""
    own = [folder for folder in (request.out_dir, request.token_cache, request.compile_cache) if folder is not None]
    for folder in own:
        folder.mkdir(parents=True, exist_ok=True)
    resumed = [request.resume_from] if request.resume_from is not None else []
    return Reach(
        readable=[
            *settings.readable,
            *request.datasets.values(),
            *request.jobs_models.values(),
            *resumed,
            *_local_model(request),
            *_tensorflow(request),
        ],
        writable=[*settings.writable, *own, request.out_dir.parent / "tmp"],
        listable=[request.models_dir] if request.models_dir is not None else [],
        temporary=request.out_dir.parent / "tmp",
        needs_hub=_needs_hub(request),
        has_gpu=gpu is not None,
        hidden=settings.hidden,
    )


def _local_model(request: TrainingRequest) -> list[Path]:
    kind, _, name = request.spec.model.id.partition(":")
    if kind != "local" or request.models_dir is None or "/" in name or name in ("", ".", ".."):
        return []
    folder = (request.models_dir / name).resolve()
    # An operator may link to a snapshot of the hub's cache, whose files are links to the blobs of the same repository.
    return [folder.parent.parent if folder.parent.name == "snapshots" else folder]


def _tensorflow(request: TrainingRequest) -> list[Path]:
    python = request.tensorflow_python
    if python is None or request.spec.training.engine != "tensorflow":
        return []
    return [python.parent.parent, python.resolve().parent.parent]


def _needs_hub(request: TrainingRequest) -> bool:
    data = request.spec.data
    is_hub_model = ":" not in request.spec.model.id
    return is_hub_model or any(isinstance(source, HubData) for source in (data.train, data.eval, data.test))
