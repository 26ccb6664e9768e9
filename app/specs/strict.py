"""The base of every spec model: requests are read strictly, stored documents leniently."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

STORED = {"document": "stored"}
"""The context of a validation that reads a stored document."""


class Strict(BaseModel):
    """A model that converts no types and accepts no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def from_stored(cls, document: Mapping[str, Any]) -> Self:
        """Read a document that this or another version of the service accepted and stored. Unknown fields are ignored.

        A field that another version added does not make the document unreadable. `app.specs.features` keeps a job that
        uses such a field away from workers that do not know it. Raises pydantic.ValidationError.
        """
        return cls.model_validate(document, extra="ignore", context=STORED)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_known_field(cls, value: Any, info: ValidationInfo) -> Any:
        if info.context == STORED or not isinstance(value, dict):
            return value
        for field in cast("dict[Any, Any]", value):
            if field in cls.model_fields:
                continue
            near = get_close_matches(str(field), cls.model_fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known fields: {', '.join(cls.model_fields)}"
            # Pydantic reports this at the model; `problems` adds the field to the path.
            raise PydanticCustomError("unknown_field", "unknown field; {hint}", {"field": str(field), "hint": hint})
        return cast("Any", value)
