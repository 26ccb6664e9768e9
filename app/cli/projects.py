"""`tunesmith projects …`: projects and their limits, directly in the database."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from app.cli.terminal import ID_COLUMN, console, say
from app.settings import Settings
from app.specs.display_text import visible_text

cli = typer.Typer(no_args_is_help=True, help="Projects and their limits (works directly on the database).")


@cli.command("list")
def list_projects() -> None:
    """List the projects and their limits."""
    from sqlalchemy import select

    from app.auth.tables import Project
    from app.local_database import migrated

    table = Table(ID_COLUMN, "name", "limits")
    with migrated(Settings()) as session:
        for project in session.scalars(select(Project).order_by(Project.id)):
            limits = {name: value for name, value in (project.limits or {}).items() if value is not None}
            table.add_row(project.id, Text(visible_text(project.name)), json.dumps(limits) if limits else "")
    console.print(table)


@cli.command("limit")
def limit_project(
    name: Annotated[str, typer.Argument(help="The project, created if it does not exist.")],
    limits: Annotated[
        list[str],
        typer.Argument(
            metavar="LIMIT=NUMBER…",
            help="priority_ceiling, queued_jobs, datasets, dataset_bytes, gpu_seconds_per_month, cpu_seconds_per_month. "
            "LIMIT= removes one.",
        ),
    ],
) -> None:
    """Set limits of a project. The others stay as they are."""
    from pydantic import ValidationError

    from app import auth
    from app.local_database import migrated

    changed = dict(_pair(text) for text in limits)
    with migrated(Settings()) as session:
        project = auth.ensure_project(session, name)
        try:
            checked = auth.ProjectLimits.model_validate({**(project.limits or {}), **changed})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise typer.BadParameter(f"{first['loc'][0]}: {first['msg']}") from None
        project.limits = checked.model_dump(exclude_none=True)
        shown = ", ".join(f"{key}={value}" for key, value in checked.model_dump(exclude_none=True).items()) or "none"
    say(f"{name}: {shown}")


def _pair(text: str) -> tuple[str, Any]:
    from app.auth import ProjectLimits

    name, separator, value = text.partition("=")
    if name not in ProjectLimits.model_fields or not separator:
        raise typer.BadParameter(f"'{text}' must be NAME=NUMBER; the names are {', '.join(ProjectLimits.model_fields)}")
    if value and not value.removeprefix("-").isdigit():
        raise typer.BadParameter(f"'{value}' must be a whole number")
    return name, int(value) if value else None
