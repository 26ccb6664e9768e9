"""Fails if a setting, route, command, failure code, event type or relative link is missing from the docs."""

import re
import sys
from pathlib import Path

import typer

from app.cli import cli
from app.failures import CATALOG
from app.jobs.events import DATA
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = ROOT / "docs" / "operations.md"
API = ROOT / "docs" / "api.md"
LIFECYCLE = ROOT / "docs" / "job-lifecycle.md"


def main() -> None:
    """Collect everything that is missing, and report it at once."""
    operations, api, lifecycle = OPERATIONS.read_text(), API.read_text(), LIFECYCLE.read_text()
    missing = [
        *(f"docs/operations.md has no table row of {name}" for name in undocumented_settings(operations)),
        *(f"docs/operations.md has no table row of {name}" for name in undocumented_commands(operations)),
        *(f"docs/api.md has no list item of {name}" for name in undocumented_routes(api)),
        *(f"docs/api.md: {difference}" for difference in event_differences(api)),
        *(f"docs/job-lifecycle.md: {difference}" for difference in failure_differences(lifecycle)),
        *_links(),
    ]
    if missing:
        sys.exit("docs: " + "\n      ".join(missing))
    print("docs: all settings, routes, commands, failure codes, event types and links are documented")


def undocumented_settings(page: str) -> list[str]:
    """The settings that are the first cell of no table row."""
    return sorted({f"TUNESMITH_{name.upper()}" for name in Settings.model_fields} - _first_cells(page))


def undocumented_commands(page: str) -> list[str]:
    """The commands that are the first cell of no table row."""
    return sorted(set(_names(cli, "tunesmith")) - _first_cells(page))


def undocumented_routes(page: str) -> list[str]:
    """The routes, as `METHOD /path`, that no list item has between backticks."""
    items = re.findall(r"^- .*(?:\n  .*)*", page, re.MULTILINE)
    documented = {route for item in items for route in re.findall(r"`([A-Z]+ /[^`]*)`", item)}
    paths = create_app().openapi()["paths"]
    return sorted({f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} - documented)


def failure_differences(page: str) -> list[str]:
    """How the table of codes differs from the catalog (`app.failures`)."""
    expected = {f"`{code}`": [kind.meaning, kind.retried] for code, kind in CATALOG.items()}
    return _differences(_table(page, "| code | meaning | retried |"), expected)


def event_differences(page: str) -> list[str]:
    """How the table of event types differs from the declared ones (`app.jobs.events`). What each means is free text."""
    expected = {f"`{kind}`": [", ".join(data.__annotations__)] for kind, data in DATA.items()}
    found = _table(page, "| type | fields | meaning |")
    return _differences({name: cells[:1] for name, cells in found.items()}, expected)


def _table(page: str, head: str) -> dict[str, list[str]]:
    """First cell to the other cells of each row below `head`."""
    rows: dict[str, list[str]] = {}
    for line in page.partition(f"\n{head}\n")[2].splitlines()[1:]:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip().strip("|").split("|"))
        rows[first] = others
    return rows


def _differences(found: dict[str, list[str]], expected: dict[str, list[str]]) -> list[str]:
    wrong = [
        f"the row of {name} must be: | {' | '.join([name, *cells])} |"
        for name, cells in expected.items()
        if found.get(name) != cells
    ]
    return [*wrong, *(f"the row of {name} has no counterpart in the code" for name in found.keys() - expected.keys())]


def _first_cells(page: str) -> set[str]:
    # A row has as many cells as the head of its table, so a row that lost a cell does not count.
    cells: set[str] = set()
    columns = 0
    for line in page.splitlines():
        if not line.startswith("|"):
            columns = 0
            continue
        row = [cell.strip() for cell in line.strip().strip("|").split("|")]
        columns = columns or len(row)
        if len(row) == columns and (name := re.fullmatch(r"`([^`]+)`", row[0])):
            cells.add(name[1])
    return cells


def _names(group: typer.Typer, prefix: str) -> list[str]:
    own = [command.name or command.callback.__name__ for command in group.registered_commands if command.callback]
    nested = [
        name
        for inner in group.registered_groups
        if inner.typer_instance
        # A group without a name of its own only says which file has its commands.
        for name in _names(inner.typer_instance, f"{prefix} {inner.name}" if isinstance(inner.name, str) else prefix)
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
