"""Which object paths are allowed, the same for every kind of store."""

from app.storage.errors import InvalidPath

TEMPORARY_PREFIX = ".put-"
"""How the names of unfinished files start. Objects may not be named so."""

MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255


def check_path(path: str) -> str:
    """Return the path of an object as it is. Raises InvalidPath with the reason."""
    if not path:
        raise InvalidPath("an object's path must not be empty")
    if (reason := _fault(path)) is not None:
        raise InvalidPath(f"the path {path!r} {reason}")
    return path


def check_prefix(prefix: str) -> str:
    """Return a folder's path without its closing slash; "" is the root. Raises InvalidPath with the reason."""
    prefix = prefix.removesuffix("/")
    return check_path(prefix) if prefix else ""


def _fault(path: str) -> str | None:
    if path.startswith("/"):
        return "is absolute; paths are relative to the store"
    if "\\" in path or not path.isprintable():
        return "holds a backslash or a control character"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    return next((reason for segment in path.split("/") if (reason := _segment_fault(segment))), None)


def _segment_fault(segment: str) -> str | None:
    if not segment:
        return "has an empty segment"
    if segment in {".", ".."}:
        return f"has the segment {segment!r}"
    if segment.startswith(TEMPORARY_PREFIX):
        return f"has a segment that starts with the reserved {TEMPORARY_PREFIX!r}"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"has a segment longer than {MAX_SEGMENT_BYTES} bytes"
    return None
