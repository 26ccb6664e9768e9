"""The base of every spec model: nothing is guessed, and an unknown field names its nearest known one."""

from difflib import get_close_matches
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """A model that converts no types and takes no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_known_field(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = cast("dict[Any, Any]", value)
        for field in given:
            if field in cls.model_fields:
                continue
            near = get_close_matches(str(field), cls.model_fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known fields: {', '.join(cls.model_fields)}"
            # Pydantic reports this at the model; `problems` adds the field to the path.
            raise PydanticCustomError("unknown_field", "unknown field; {hint}", {"field": str(field), "hint": hint})
        return given
