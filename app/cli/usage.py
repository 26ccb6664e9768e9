"""`tunesmith usage` and `tunesmith audit`: what a project has used, and who changed what."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from app.cli.terminal import AsJson, console, open_client

cli = typer.Typer()

PAGE = 100


@cli.command("usage")
def usage(
    month: Annotated[str | None, typer.Option(help="Such as 2026-12. Without it: the current month.")] = None,
    by: Annotated[str | None, typer.Option(help="A key of the jobs' metadata.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the jobs of a month have used, and the limits of the project."""
    with open_client() as client:
        found = client.get("/v1/usage", month=month, by=by)
    if as_json:
        console.print_json(data=found)
        return
    table = Table(found["month"], "jobs", "waited s", "ran s", "GPU s", "CPU s")
    names = ("jobs", "queued_seconds", "running_seconds", "gpu_seconds", "cpu_seconds")
    parts: dict[str, Any] = {**(found["by"] or {}), "total": found["total"]}
    for name, part in parts.items():
        table.add_row(Text(name), *(f"{part[column]:,.0f}" for column in names))
    console.print(table)
    limits = {name: value for name, value in found["limits"].items() if value is not None}
    console.print(
        f"queued jobs {found['queued_jobs']:,}, datasets {found['datasets']:,} of {found['dataset_bytes']:,} bytes; "
        f"limits: {json.dumps(limits) if limits else 'none'}"
    )


@cli.command("audit")
def audit() -> None:
    """Print the audit log of the project as JSON lines, newest first. The key needs the role `admin`."""
    after: str | None = None
    with open_client() as client:
        while True:
            page = client.get("/v1/audit", limit=PAGE, after=after)
            for entry in page["data"]:
                typer.echo(json.dumps(entry))
            if not page["has_more"]:
                return
            after = page["data"][-1]["id"]
