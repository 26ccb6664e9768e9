"""`tunesmith keys …`: API keys, directly in the database."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from app.cli.terminal import ID_COLUMN, console, errors, say
from app.settings import Settings
from app.specs.display_text import visible_text

if TYPE_CHECKING:
    from app.auth import Role
    from app.auth.tables import ApiKey

DAY_SECONDS = 86400.0

cli = typer.Typer(no_args_is_help=True, help="API keys (works directly on the database).")


@cli.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="A name for the key.")] = "key",
    project: Annotated[str, typer.Option(help="The project of the key, created if it does not exist.")] = "default",
    role: Annotated[str, typer.Option(help="read, submit or admin.")] = "submit",
    days: Annotated[
        float | None, typer.Option(min=0.001, help="How long it is valid. Without it: until it is revoked.")
    ] = None,
    priority_ceiling: Annotated[
        int | None,
        typer.Option(min=-100, max=100, help="The highest priority of its jobs. Without it: 0, for admins 100."),
    ] = None,
) -> None:
    """Create a key and print it. It is not shown again."""
    from app import auth
    from app.local_database import migrated

    with migrated(Settings()) as session:
        key = auth.create_key(
            session,
            auth.ensure_project(session, project).id,
            name,
            _role(role),
            expires_in=None if days is None else days * DAY_SECONDS,
            priority_ceiling=priority_ceiling,
        )
    typer.echo(key)


@cli.command("list")
def list_keys() -> None:
    """List the keys, without their secrets."""
    from app import auth
    from app.local_database import migrated

    table = Table(ID_COLUMN, "project", "name", "role", "state", "last used")
    with migrated(Settings()) as session:
        for key, project in auth.keys(session):
            texts = map(visible_text, (project, key.name, key.role, _state(key), _time(key.last_used_at)))
            table.add_row(key.id, *map(Text, texts))
    console.print(table)


@cli.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The id of the key as in `keys list`, key_…")],
) -> None:
    """Revoke a key. Every process of the service refuses it within a second."""
    from app import auth
    from app.errors import NotFound
    from app.local_database import migrated

    try:
        with migrated(Settings()) as session:
            auth.revoke(session, key_id)
    except NotFound as error:
        errors.print(Text(error.message), soft_wrap=True)
        raise typer.Exit(1) from None
    say(f"{key_id} is revoked.")


def _role(name: str) -> "Role":
    from app.auth import Role

    if name not in set(Role):
        raise typer.BadParameter(f"must be one of {', '.join(Role)}", param_hint="--role")
    return Role(name)


def _state(key: "ApiKey") -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "live"
    return f"until {_time(key.expires_at)}" if key.expires_at > time.time() else "expired"


def _time(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")
