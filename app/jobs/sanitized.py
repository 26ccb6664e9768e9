"""Makes text and JSON storable in a database."""

from typing import Any, cast


def sanitized(value: Any) -> Any:
    """The same value with U+FFFD in place of NUL and lone surrogates, which a database cannot hold in text."""
    if isinstance(value, str):
        return value if _is_plain(value) else value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {sanitized(key): sanitized(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [sanitized(inner) for inner in cast("list[Any]", value)]
    return value


def _is_plain(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text
