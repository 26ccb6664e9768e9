"""The settings that a model's configuration class declares."""

from dataclasses import fields
from typing import Any

from app.specs.model_settings import RESERVED


def settings_of(kind: Any) -> list[str]:
    """The names of its fields and their aliases, sorted, without those that the service sets itself."""
    declared = {field.name for field in fields(kind)} | set(kind.attribute_map)
    return sorted(name for name in declared - RESERVED if not name.startswith("_"))
