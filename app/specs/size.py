"""The size limit of a spec. Rows in the spec itself have a limit of their own."""

import json
from typing import Any, cast

LIMIT_BYTES = 64 * 1024


def is_too_large(document: Any) -> bool:
    """Whether a spec, without its inline rows, has more than 64 KiB as JSON."""
    if not isinstance(document, dict):
        return False
    spec = cast("dict[str, Any]", document)
    data = spec.get("data")
    if isinstance(data, dict):
        spec = spec | {"data": {name: _without_rows(part) for name, part in cast("dict[str, Any]", data).items()}}
    return len(json.dumps(spec, ensure_ascii=False).encode(errors="replace")) > LIMIT_BYTES


def _without_rows(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in cast("dict[str, Any]", part).items() if name != "rows"}
