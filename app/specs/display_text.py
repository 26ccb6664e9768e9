"""Text that people see in lists and terminals: names, metadata, and what a terminal must never get."""

import re
from typing import Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import with_info_after_validator_function

from app.specs.strict import STORED

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line separators, and characters that change the direction of text (UAX #9)."""
UNSEEN = re.compile(r"(?![\n\t])" + CONTROLS.pattern)


def has_controls(text: str) -> bool:
    """Whether the text has characters that move the cursor of a terminal, break a line, or reverse what is shown."""
    return CONTROLS.search(text) is not None


def visible_text(text: str) -> str:
    """The text with U+FFFD in place of such characters, other than line breaks and tabs."""
    return UNSEEN.sub("\ufffd", text)


def visible(value: Any) -> Any:
    """The same for all texts of a JSON value."""
    if isinstance(value, str):
        return visible_text(value)
    if isinstance(value, dict):
        return {visible(key): visible(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [visible(inner) for inner in cast("list[Any]", value)]
    return value


class _OneLine:
    """Text of one line without such characters. Stored documents may have them."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the text after its own constraints."""
        return with_info_after_validator_function(_without_controls, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say so in the schema."""
        return {**handler(core), "pattern": f"^[^{CONTROLS.pattern[1:-1]}]*$"}


ONE_LINE = _OneLine()


def _without_controls(text: str, info: ValidationInfo) -> str:
    if info.context != STORED and has_controls(text):
        raise ValueError(
            "must not have control characters, line breaks, or characters that change the direction of text"
        )
    return text
