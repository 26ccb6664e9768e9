"""`tunesmith datasets …`: uploaded data."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from app.cli.terminal import ID_COLUMN, AsJson, console, open_client, say
from app.client import Answer

cli = typer.Typer(no_args_is_help=True, help="Uploaded data.")


@cli.command("upload")
def upload(
    paths: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    name: Annotated[str | None, typer.Option(help="A name for the dataset.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload csv, tsv, json, jsonl or parquet files with the same columns as one dataset. Files may be gzipped."""
    with open_client() as client:
        dataset = client.upload(*paths, name=name)
    if as_json:
        typer.echo(json.dumps(dataset))
        return
    names = ", ".join(f"{column['name']} ({column['type']})" for column in dataset["columns"])
    files = f" in {len(dataset['files'])} files" if len(dataset["files"]) > 1 else ""
    say(f"{dataset['id']}: {dataset['rows']} rows of {names}{files}")


@cli.command("list")
def list_datasets() -> None:
    """List the newest datasets."""
    table = Table(ID_COLUMN, "name", "rows", "created")
    with open_client() as client:
        for item in client.get("/v1/datasets", limit=100)["data"]:
            table.add_row(item["id"], Text(_name(item)), str(item["rows"]), item["created_at"])
    console.print(table)


@cli.command("show")
def show_dataset(dataset: str, rows: Annotated[int, typer.Option(help="Rows to show.")] = 5) -> None:
    """Show a dataset's columns and first rows."""
    with open_client() as client:
        console.print_json(data=client.get(f"/v1/datasets/{dataset}"))
        for row in client.get(f"/v1/datasets/{dataset}/rows", limit=rows)["data"]:
            console.print_json(data=row)


@cli.command("delete")
def delete_dataset(dataset: str) -> None:
    """Delete a dataset. No unfinished job may need it."""
    with open_client() as client:
        client.delete(f"/v1/datasets/{dataset}")
    say(f"{dataset} is deleted.")


def _name(dataset: Answer) -> str:
    others = len(dataset["files"]) - 1
    return dataset["name"] or (f"{dataset['filename']} and {others} more" if others else dataset["filename"])
