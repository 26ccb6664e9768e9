"""`tunesmith retention`: what is old enough to go, and its removal. Directly in database and storage."""

from typing import Annotated

import typer
from rich.table import Table

from app.cli.terminal import ID_COLUMN, console, say
from app.settings import Settings

cli = typer.Typer()


@cli.command("retention")
def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
) -> None:
    """Remove what is older than the settings and limits of the projects allow. The service also does it every hour."""
    from app.local_database import opened
    from app.retention import expired, remove
    from app.storage import open_storage

    settings = Settings()
    table = Table(ID_COLUMN, "kind", "job", "bytes")
    total = 0
    with opened(settings) as database:
        with database.read() as session:
            found = expired(session, settings)
        storage = open_storage(settings.storage())
        for item in found:
            if dry_run or remove(database, storage, item):
                table.add_row(item.id, item.kind, item.job_id or "", f"{item.bytes:,}")
                total += item.bytes
    console.print(table)
    say(f"{total:,} bytes {'would be' if dry_run else 'were'} freed.")
