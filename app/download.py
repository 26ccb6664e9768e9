"""Downloads a model or checkpoint. Verifies each file by sha256, and resumes interrupted files."""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from app.client import Client, ClientError, Unreachable

CHUNK_BYTES = 1024**2
ATTEMPTS = 5


class Corrupt(ClientError):
    """A file is complete, but its bytes do not match the manifest."""


def download(
    client: Client, job_id: str, folder: Path, step: int | None, on_bytes: Callable[[str, int, int], None]
) -> list[Path]:
    """Fetch all files into `folder` and return them.

    `on_bytes(path, done, size)` is called as bytes arrive. Files that are already there and match are kept.
    Raises ClientError; running it again resumes.
    """
    manifest = client.get(f"/v1/jobs/{job_id}/artifacts", checkpoint=step)["data"]
    return [_fetch(client, entry, folder / _safe(entry["path"]), on_bytes) for entry in manifest]


def _fetch(client: Client, entry: dict[str, Any], target: Path, on_bytes: Callable[[str, int, int], None]) -> Path:
    path, size, digest = entry["path"], int(entry["size"]), entry["sha256"]
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.stat().st_size == size and _sha256(target) == digest:
        on_bytes(path, size, size)
        return target
    partial = target.with_name(target.name + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue(client, entry, partial, on_bytes)
            break
        except Unreachable:
            if attempt == ATTEMPTS:
                raise
    if _sha256(partial) != digest:
        partial.unlink()
        raise Corrupt(f"{path}: the bytes received do not match the sha256 of the manifest; download again")
    partial.replace(target)
    return target


def _continue(client: Client, entry: dict[str, Any], partial: Path, on_bytes: Callable[[str, int, int], None]) -> None:
    path, size = entry["path"], int(entry["size"])
    # An empty file is complete at once, but must exist.
    partial.touch()
    done = partial.stat().st_size
    if done == size:
        on_bytes(path, done, size)
        return
    # With If-Range, the response is the whole new file if the file has changed.
    headers = {"range": f"bytes={done}-", "if-range": f'"{entry["sha256"]}"'} if 0 < done < size else {}
    url = entry["url"]
    address, _, query = url.partition("?")
    with client.stream(quote(address) + (f"?{query}" if query else ""), headers) as response:
        resumes = response.status_code == 206  # noqa: PLR2004 - Partial Content
        done = done if resumes else 0
        with partial.open("ab" if resumes else "wb") as file:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                on_bytes(path, done, size)


def _safe(path: str) -> Path:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise ClientError(f"the service names a path outside of the folder: {path!r}")
    return Path(relative)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
