"""Folders that are whole or not there: checkpoints and the published model.

The protocol: gather the files in a temporary sibling directory, fsync each, write `manifest.json` last and fsync it,
rename the directory into place, fsync the parent. Whoever reads trusts a folder only after `verify`.

    checkpoints/step-00000042/manifest.json
    {"version": 1, "step": 42, "epoch": 1.5, "metrics": {…}, "best_step": 30,
     "files": [{"path": "model.safetensors", "size": 90868376, "sha256": "…"}, …]}
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from worker.training.errors import CheckpointBroken

MANIFEST = "manifest.json"
VERSION = 1
RESUME_ONLY = frozenset(
    {
        "manifest.json",
        "optimizer.pt",
        "optimizer.safetensors",
        "rng_state.pth",
        "scaler.pt",
        "scheduler.pt",
        "tensorflow_state.npz",
        "trainer_state.json",
        "training_args.bin",
        "tunesmith.json",
    }
)
"""Files of a checkpoint that only resuming needs."""


@dataclass(frozen=True)
class ManifestFile:
    """One file of a folder: its path in POSIX form relative to the folder, its bytes, and their SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a folder holds. `facts` are the other keys, such as epoch, metrics and best_step."""

    step: int
    files: tuple[ManifestFile, ...]
    facts: dict[str, Any]


def commit(staging: Path, final: Path, facts: dict[str, Any]) -> Manifest:
    """Turn the folder `staging` into the whole folder `final`, and take `staging` away.

    `facts` must hold `step`; all of them go into the manifest. A folder that already exists at
    `final` is replaced. Both must be on one filesystem. Raises OSError where the disk says no.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    building = final.parent / f".{final.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    staging.rename(building)
    (building / MANIFEST).unlink(missing_ok=True)
    files = tuple(_flushed(building, path) for path in _files(building))
    manifest = Manifest(step=int(facts["step"]), files=files, facts=_rest(facts))
    _write_manifest(building / MANIFEST, manifest)
    for folder in [path for path in building.rglob("*") if path.is_dir()] + [building]:
        _fsync_directory(folder)
    _replace(building, final)
    return manifest


def copy_model(source: Path, target: Path) -> None:
    """Copy the files of a model out of a checkpoint folder, without those that only resuming needs."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in RESUME_ONLY:
            shutil.copyfile(path, target / path.name)


def verify(folder: Path) -> Manifest:
    """Read the manifest and check every file's size and hash. Raises CheckpointBroken with the reason."""
    manifest = verify_sizes(folder)
    for file in manifest.files:
        if _sha256(folder / file.path) != file.sha256:
            raise CheckpointBroken(f"{folder.name}: the bytes of {file.path} are not those of its manifest")
    return manifest


def verify_sizes(folder: Path) -> Manifest:
    """Read the manifest and check that every file is there and has its size. Raises CheckpointBroken with the reason."""
    manifest = read_manifest(folder)
    for file in manifest.files:
        path = folder / _safe(folder, file.path)
        if not path.is_file():
            raise CheckpointBroken(f"{folder.name}: the file {file.path} is missing")
        size = path.stat().st_size
        if size != file.size:
            raise CheckpointBroken(f"{folder.name}: {file.path} has {size} bytes, its manifest says {file.size}")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest without looking at the files. Raises CheckpointBroken with the reason."""
    try:
        body = cast("dict[str, Any]", json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        if body["version"] != VERSION:
            raise CheckpointBroken(f"{folder.name}: its manifest is of version {body['version']}, known is {VERSION}")
        files = tuple(ManifestFile(f["path"], f["size"], f["sha256"]) for f in body["files"])
        return Manifest(step=int(body["step"]), files=files, facts=_rest(body))
    except FileNotFoundError:
        raise CheckpointBroken(f"{folder.name}: there is no {MANIFEST}, so it was never finished") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointBroken(f"{folder.name}: its {MANIFEST} cannot be read: {error}") from error


def newest_valid(checkpoints_dir: Path) -> Path | None:
    """The checkpoint of the highest step whose manifest verifies, or None."""
    for _, folder in reversed(_by_step(checkpoints_dir)):
        try:
            verify(folder)
        except CheckpointBroken:
            continue
        return folder
    return None


def rotate(checkpoints_dir: Path, keep: int, best_step: int | None) -> list[int]:
    """Delete all but the `keep` newest checkpoints and the best one; what a killed attempt left goes too.

    Returns the steps that were deleted.
    """
    for leftover in checkpoints_dir.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
    deleted: list[int] = []
    for step, folder in _by_step(checkpoints_dir)[:-keep]:
        if step != best_step:
            _remove(folder)
            deleted.append(step)
    return deleted


def folder_name(step: int) -> str:
    """The name of a checkpoint's folder: names sort as their steps do."""
    return f"step-{step:08d}"


def _by_step(checkpoints_dir: Path) -> list[tuple[int, Path]]:
    if not checkpoints_dir.is_dir():
        return []
    found = ((re.fullmatch(r"step-(\d{8,})", path.name), path) for path in checkpoints_dir.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match is not None and path.is_dir())


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _flushed(folder: Path, path: Path) -> ManifestFile:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return ManifestFile(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rest(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("version", "step", "files")}


def _write_manifest(path: Path, manifest: Manifest) -> None:
    files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files]
    body = {"version": VERSION, "step": manifest.step, **manifest.facts, "files": files}
    with path.open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _safe(folder: Path, path: str) -> PurePosixPath:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise CheckpointBroken(f"{folder.name}: its manifest names {path!r}, a path outside of the folder")
    return relative


def _replace(building: Path, final: Path) -> None:
    if final.exists():
        _remove(final)
    building.rename(final)
    _fsync_directory(final.parent)


def _remove(folder: Path) -> None:
    # Renamed first, so that a half-deleted folder is never mistaken for a checkpoint.
    gone = folder.parent / f".{folder.name}.deleted"
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _fsync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
