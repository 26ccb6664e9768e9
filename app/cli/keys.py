"""`tunesmith keys …`: API keys, directly in the database."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from app.cli.terminal import ID_COLUMN, console, errors, say
from app.settings import Settings

cli = typer.Typer(no_args_is_help=True, help="API keys (works directly on the database).")


@cli.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="A name for the key.")] = "key",
    project: Annotated[str, typer.Option(help="The project of the key, created if it does not exist.")] = "default",
) -> None:
    """Create a key and print it. It is not shown again."""
    from app import auth
    from app.local_database import migrated

    with migrated(Settings()) as session:
        key = auth.create_key(session, auth.ensure_project(session, project).id, name)
    typer.echo(key)


@cli.command("list")
def list_keys() -> None:
    """List the keys, without their secrets."""
    from app import auth
    from app.local_database import migrated

    table = Table(ID_COLUMN, "project", "name", "state")
    with migrated(Settings()) as session:
        for key, project in auth.keys(session):
            table.add_row(key.id, *map(Text, (project, key.name)), "revoked" if key.revoked_at else "live")
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
