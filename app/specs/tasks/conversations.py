"""Chat messages, as chat templates expect them.

Example: `[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]`.
"""

import json
from typing import Any, cast

ROLES = ("system", "user", "assistant", "tool")


def messages(cell: Any) -> list[dict[str, str]] | None:
    """The messages of a cell, which may be JSON text; None if it is not a list."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return cast("list[dict[str, str]]", cell) if isinstance(cell, list) else None


def is_conversation(cell: Any) -> bool:
    """Whether a cell has messages and not a plain text: a list, or JSON text of a list of objects."""
    if isinstance(cell, str) and not cell.lstrip().startswith("[{"):
        return False
    return messages(cell) is not None


def conversation_fault(cell: Any) -> str | None:
    """Return why a conversation is unusable, or None."""
    conversation = messages(cell)
    if conversation is None:
        return "a list of messages is needed, each an object with role and content"
    if not conversation:
        return "the conversation is empty"
    for number, message in enumerate(cast("list[Any]", conversation), start=1):
        if fault := _message_fault(message, number):
            return fault
    if conversation[-1]["role"] != "assistant":
        return f"the last message has the role '{conversation[-1]['role']}'; it must be the answer, with the role 'assistant'"
    return None


def _message_fault(message: Any, number: int) -> str | None:
    if not isinstance(message, dict):
        return f"message {number} is not an object with role and content"
    said = cast("dict[str, Any]", message)
    role, content = said.get("role"), said.get("content")
    if role not in ROLES:
        return f"message {number} has the role {role!r}; roles are {', '.join(ROLES)}"
    if role == "system" and number > 1:
        return f"message {number} has the role 'system', which only the first message may have"
    if not isinstance(content, str):
        return f"message {number} has no text as its content"
    if not content.strip():
        return f"message {number}, with the role '{role}', is empty"
    return None
