"""`tunesmith …`: everything a person does at a shell."""

import json
import logging
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Column, Table
from rich.text import Text

from app.client import Client
from app.download import download as fetch
from app.settings import Settings
from app.watch import outcome
from app.watch import watch as follow

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Fine-tuning jobs on your own machines.",
    pretty_exceptions_enable=False,
)
keys_cli = typer.Typer(no_args_is_help=True, help="API keys (works on the database).")
datasets_cli = typer.Typer(no_args_is_help=True, help="Uploaded data.")
cli.add_typer(keys_cli, name="keys")
cli.add_typer(datasets_cli, name="datasets")

console = Console()
errors = Console(stderr=True)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, job_…")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")]
ID_COLUMN = Column("id", no_wrap=True, min_width=30)
EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 3}


@cli.command()
def up(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    data: Annotated[Path | None, typer.Option(help="Where everything is kept; TUNESMITH_DATA_DIR without it.")] = None,
) -> None:
    """Start API and worker on this machine: SQLite, a folder, no broker."""
    from app.up import check_address, prepare, serve

    if data is not None:
        os.environ["TUNESMITH_DATA_DIR"] = str(data.absolute())
    settings = Settings()
    check_address(host, port)
    key_file = prepare(settings, _say)
    _say(f"Tunesmith on http://{host}:{port} (API: /docs). The key is in {key_file}")
    if data is not None or port != 8000:  # noqa: PLR2004 - the default of TUNESMITH_URL
        folder = settings.data_dir.absolute()
        _say(f"In other shells: export TUNESMITH_DATA_DIR={folder} TUNESMITH_URL=http://{host}:{port}")
    serve(settings, host, port)


@cli.command()
def api(host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1", port: Port = 8000) -> None:
    """Start the API alone."""
    Settings()  # What is wrong with them is told better here.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "app", "--host", host, "--port", str(port)])  # noqa: S606 - it replaces this process, on purpose


@cli.command()
def worker(slots: Annotated[int | None, typer.Option(help="Jobs at once; TUNESMITH_SLOTS without it.")] = None) -> None:
    """Start a worker."""
    Settings()  # What is wrong with them is told better here.
    chosen = [] if slots is None else ["--slots", str(slots)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "worker", *chosen])  # noqa: S606 - it replaces this process, on purpose


@cli.command()
def migrate() -> None:
    """Bring the database to this version's schema."""
    from app.local_database import opened
    from app.migrate import upgrade

    settings = Settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with opened(settings) as database:
        upgrade(database)
    _say("The schema is at the newest migration.")


@keys_cli.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")] = "key",
    project: Annotated[str, typer.Option(help="The project it opens, made if need be.")] = "default",
) -> None:
    """Make a key and print it; it is not shown again."""
    from app import auth
    from app.local_database import migrated

    with migrated(Settings()) as session:
        key = auth.create_key(session, auth.ensure_project(session, project).id, name)
    typer.echo(key)


@keys_cli.command("list")
def list_keys() -> None:
    """List keys; the keys themselves are not stored."""
    from app import auth
    from app.local_database import migrated

    table = Table(ID_COLUMN, "project", "name", "state")
    with migrated(Settings()) as session:
        for key, project in auth.keys(session):
            table.add_row(key.id, *map(Text, (project, key.name)), "revoked" if key.revoked_at else "live")
    console.print(table)


@keys_cli.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it, key_…")]) -> None:
    """End a key's life at once."""
    from app import auth
    from app.errors import NotFound
    from app.local_database import migrated

    try:
        with migrated(Settings()) as session:
            auth.revoke(session, key_id)
    except NotFound as error:
        errors.print(Text(error.message), soft_wrap=True)
        raise typer.Exit(1) from None
    _say(f"{key_id} is revoked.")


@datasets_cli.command("upload")
def upload(path: Annotated[Path, typer.Argument(exists=True, dir_okay=False)], as_json: AsJson = False) -> None:
    """Upload a csv, tsv, json, jsonl or parquet file, each also gzipped."""
    with _client() as client:
        dataset = client.upload(path)
    if as_json:
        typer.echo(json.dumps(dataset))
        return
    names = ", ".join(f"{column['name']} ({column['type']})" for column in dataset["columns"])
    _say(f"{dataset['id']}: {dataset['rows']} rows of {names}")


@datasets_cli.command("list")
def list_datasets() -> None:
    """List the newest datasets."""
    table = Table(ID_COLUMN, "file", "rows", "created")
    with _client() as client:
        for item in client.get("/v1/datasets", limit=100)["data"]:
            table.add_row(item["id"], Text(item["filename"] or ""), str(item["rows"]), item["created_at"])
    console.print(table)


@datasets_cli.command("show")
def show_dataset(dataset: str, rows: Annotated[int, typer.Option(help="Rows to show.")] = 5) -> None:
    """Show a dataset's columns and first rows."""
    with _client() as client:
        console.print_json(data=client.get(f"/v1/datasets/{dataset}"))
        for row in client.get(f"/v1/datasets/{dataset}/rows", limit=rows)["data"]:
            console.print_json(data=row)


@datasets_cli.command("delete")
def delete_dataset(dataset: str) -> None:
    """Delete a dataset that no unfinished job needs."""
    with _client() as client:
        client.delete(f"/v1/datasets/{dataset}")
    _say(f"{dataset} is deleted.")


@cli.command()
def submit(
    spec: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A job spec as JSON.")],
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated submit with the same key gives the same job.")
    ] = None,
) -> None:
    """Submit a job."""
    body = _read_json(spec)
    with _client() as client:
        job = client.post("/v1/jobs", body, {"idempotency-key": idempotency_key} if idempotency_key else None)
        typer.echo(job["id"])
        if watch:
            _follow(client, job["id"])


@cli.command("jobs")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
) -> None:
    """List the newest jobs."""
    table = Table(ID_COLUMN, "name", "status", "progress", "metrics", "created")
    with _client() as client:
        for job in client.get("/v1/jobs", status=status, limit=limit)["data"]:
            progress = job["progress"]
            done = f"{progress['step']}/{progress['of']}" if progress else ""
            metrics = ", ".join(f"{name} {value:.4g}" for name, value in list(job["metrics"].items())[:2])
            told = map(Text, (job["name"] or "", job["status"], done, metrics, job["created_at"]))
            table.add_row(job["id"], *told)
    console.print(table)


@cli.command("watch")
def watch_job(job: JobId) -> None:
    """Follow a job until it ends. Exit code: 0 succeeded, 1 failed, 3 cancelled."""
    with _client() as client:
        _follow(client, job)


@cli.command()
def logs(
    job: JobId, attempt: int | None = None, tail: Annotated[int, typer.Option(help="Characters from the end.")] = 20_000
) -> None:
    """Print the end of what the training process wrote."""
    with _client() as client:
        typer.echo(client.get(f"/v1/jobs/{job}/logs", attempt=attempt, tail=tail)["text"], nl=False)


@cli.command()
def cancel(job: JobId) -> None:
    """Cancel a job; a running one saves a checkpoint first."""
    with _client() as client:
        answer = client.post(f"/v1/jobs/{job}/cancel")
    _say("cancelled" if answer["status"] == "cancelled" else "asked to stop; it saves a checkpoint first")


@cli.command()
def pause(job: JobId) -> None:
    """Pause a job; a running one saves a checkpoint and frees its slot."""
    with _client() as client:
        answer = client.post(f"/v1/jobs/{job}/pause")
    _say("paused" if answer["status"] == "paused" else "asked to pause; it saves a checkpoint first")


@cli.command()
def resume(job: JobId) -> None:
    """Put a paused job back into the queue."""
    with _client() as client:
        client.post(f"/v1/jobs/{job}/resume")
    _say("queued; it goes on from its newest checkpoint")


@cli.command()
def retry(
    job: JobId,
    from_checkpoint: Annotated[
        str | None, typer.Option(help="The step of a checkpoint to go on from, or `latest`; from the start without it.")
    ] = None,
) -> None:
    """Make a new job from one that has ended, and print its id."""
    start = int(from_checkpoint) if from_checkpoint and from_checkpoint.isdigit() else from_checkpoint
    with _client() as client:
        typer.echo(client.post(f"/v1/jobs/{job}/retry", {"from_checkpoint": start})["id"])


@cli.command()
def download(
    job: JobId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put the files.")],
    checkpoint: Annotated[
        int | None, typer.Option(help="The step of a checkpoint; the published model without it.")
    ] = None,
) -> None:
    """Download a model. Every file's sha256 is verified; run it again to resume a cut one."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with _client() as client, Progress(*columns, console=console, transient=True) as bar:
        files = fetch(client, job, folder, checkpoint, _on_bytes(bar))
    _say(f"{len(files)} files in {folder}, every sha256 verified.")


def main() -> None:
    """Run the command line; what a person can mend is told in a line or a few, and exits with 2."""
    logging.basicConfig(level=logging.WARNING)
    try:
        cli()
    except Exception as error:
        from app.explain import explain

        told = explain(error)
        if told is None:
            raise
        errors.print(told, soft_wrap=True)
        sys.exit(2)


def _say(line: str) -> None:
    # A Text is printed as it is: a name such as "run [/x]" in a plain string would be read as markup.
    console.print(Text(line), soft_wrap=True)


def _read_json(path: Path) -> Any:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        from app.explain import CannotRun

        raise CannotRun(f"{path} is not JSON: {error}") from None
    return body


def _follow(client: Client, job_id: str) -> None:
    job = follow(client, job_id, console)
    typer.echo(outcome(job))
    raise typer.Exit(EXIT_CODES[job["status"]])


def _on_bytes(bar: Progress) -> Callable[[str, int, int], None]:
    tasks: dict[str, TaskID] = {}

    def update(path: str, done: int, size: int) -> None:
        if path not in tasks:
            tasks[path] = bar.add_task(path, total=size)
        bar.update(tasks[path], completed=done)

    return update


@contextmanager
def _client() -> Generator[Client]:
    settings = Settings()
    key = settings.api_key
    if not key:
        if not settings.key_file().exists():
            from app.explain import CannotRun

            raise CannotRun(
                f"no API key: set TUNESMITH_API_KEY, or start the service with `tunesmith up`, which writes {settings.key_file()}"
            )
        key = settings.key_file().read_text().strip()
    yield Client(settings.url, key)


if __name__ == "__main__":
    main()
