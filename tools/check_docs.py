"""Fails where a setting, route, command or relative link is missing from the docs."""

import re
import sys
from pathlib import Path

import typer

from app.cli import cli
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = ROOT / "docs" / "operations.md"
API = ROOT / "docs" / "api.md"


def main() -> None:
    """Collect what is missing, and say it all at once."""
    missing = [*_settings(), *_routes(), *_commands(), *_links()]
    if missing:
        sys.exit("docs: " + "\n      ".join(missing))
    print("docs: every setting, route, command and link is there")


def _settings() -> list[str]:
    text = OPERATIONS.read_text()
    names = [f"TUNESMITH_{name.upper()}" for name in Settings.model_fields]
    return [f"docs/operations.md does not document {name}" for name in names if f"`{name}`" not in text]


def _routes() -> list[str]:
    text = API.read_text()
    paths = create_app().openapi()["paths"]
    wanted = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    return [f"docs/api.md does not document {route}" for route in wanted if f"`{route}`" not in text]


def _commands() -> list[str]:
    text = OPERATIONS.read_text()
    return [
        f"docs/operations.md does not document {name}" for name in _names(cli, "tunesmith") if f"`{name}" not in text
    ]


def _names(group: typer.Typer, prefix: str) -> list[str]:
    own = [command.name or command.callback.__name__ for command in group.registered_commands if command.callback]
    nested = [
        name
        for inner in group.registered_groups
        if inner.typer_instance
        for name in _names(inner.typer_instance, f"{prefix} {inner.name}")
    ]
    return [f"{prefix} {name}" for name in own] + nested


def _links() -> list[str]:
    broken: list[str] = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
        gone = [target for target in targets if not (page.parent / target).exists()]
        broken += [f"{page.relative_to(ROOT)} links to {target}, which is not there" for target in gone]
    return broken


if __name__ == "__main__":
    main()
