"""The message of a command that cannot continue: what is wrong, where, and what to do. Never a traceback."""

from typing import Any

from alembic.util import CommandError
from pydantic import ValidationError
from rich.text import Text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.client import ClientError, Refused
from app.settings import Settings
from app.specs.problems import sentence


class CannotRun(Exception):
    """A command cannot run here. The message has the reason and what to do."""


def explain(error: Exception) -> Text | None:
    """The lines that explain this error to the user; None for an error that only a developer can fix."""
    if isinstance(error, Refused):
        return _refusal(error)
    message = _message(error)
    return None if message is None else Text.assemble(("error", "red"), ": ", message)


def _refusal(error: Refused) -> Text:
    lines = Text.assemble(("refused", "red"), f" ({error.status}, {error.code}): {error}")
    for detail in error.rows():
        where = detail.get("param") or " ".join(
            f"{key} {detail[key]}" for key in ("split", "row", "file", "line", "column") if detail.get(key)
        )
        lines.append(f"\n  {where}: {detail.get('message', '')}")
    if error.hint:
        lines.append(f"\n  {error.hint}")
    return lines


def _message(error: Exception) -> str | None:
    match error:
        case ClientError() | CannotRun():
            return str(error)
        case ValidationError() if error.title == Settings.__name__:
            return "\n       ".join(map(_setting, error.errors(include_url=False)))
        case CommandError():
            return f"the schema cannot be migrated: {error}. Is the database of a newer version of Tunesmith?"
        case SQLAlchemyError():
            return f"the database cannot be used: {_reason(error)}. Check TUNESMITH_DATABASE_URL"
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else str(error)
        case _:
            return None


def _setting(problem: Any) -> str:
    name = "_".join(map(str, problem["loc"])).upper()
    return f"TUNESMITH_{name} {sentence(problem['msg'])}; it is '{problem['input']}'"


def _reason(error: SQLAlchemyError) -> str:
    # Without the statement and the link to SQLAlchemy's manual, which help only a developer.
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split()).rstrip(".")
