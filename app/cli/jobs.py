"""Commands about jobs: submit, follow, control, download."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from app.cli.terminal import ID_COLUMN, console, open_client, say
from app.client import Client
from app.download import download as fetch
from app.watch import metric_text, outcome
from app.watch import watch as follow

cli = typer.Typer()

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, job_…")]
EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 3}


@cli.command()
def submit(
    spec: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A job spec as JSON.")],
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated submission with the same key returns the same job.")
    ] = None,
) -> None:
    """Submit a job."""
    body = _read_json(spec)
    with open_client() as client:
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
    table = Table(ID_COLUMN, "name", "status", "progress", "metrics", "waited", "ran", "created")
    with open_client() as client:
        for job in client.get("/v1/jobs", status=status, limit=limit)["data"]:
            progress = job["progress"]
            done = f"{progress['step']}/{progress['of']}" if progress else ""
            metrics = ", ".join(metric_text(name, value) for name, value in list(job["metrics"].items())[:2])
            seconds = [f"{job[name]:.0f} s" if name in job else "" for name in ("queued_seconds", "running_seconds")]
            cells = map(Text, (job["name"] or "", job["status"], done, metrics, *seconds, job["created_at"]))
            table.add_row(job["id"], *cells)
    console.print(table)


@cli.command("watch")
def watch_job(job: JobId) -> None:
    """Follow a job until it ends. Exit code: 0 succeeded, 1 failed, 3 cancelled."""
    with open_client() as client:
        _follow(client, job)


@cli.command()
def logs(
    job: JobId,
    attempt: int | None = None,
    tail: Annotated[int, typer.Option(help="Number of characters from the end.")] = 20_000,
) -> None:
    """Print the end of the training process's output."""
    with open_client() as client:
        typer.echo(client.get(f"/v1/jobs/{job}/logs", attempt=attempt, tail=tail)["text"], nl=False)


@cli.command()
def cancel(job: JobId) -> None:
    """Cancel a job; a running one saves a checkpoint first."""
    with open_client() as client:
        answer = client.post(f"/v1/jobs/{job}/cancel")
    say("cancelled" if answer["status"] == "cancelled" else "asked to stop; it saves a checkpoint first")


@cli.command()
def pause(job: JobId) -> None:
    """Pause a job; a running one saves a checkpoint and frees its slot."""
    with open_client() as client:
        answer = client.post(f"/v1/jobs/{job}/pause")
    say("paused" if answer["status"] == "paused" else "asked to pause; it saves a checkpoint first")


@cli.command()
def resume(job: JobId) -> None:
    """Put a paused job back into the queue."""
    with open_client() as client:
        client.post(f"/v1/jobs/{job}/resume")
    say("queued; it continues from its newest checkpoint")


@cli.command()
def retry(
    job: JobId,
    from_checkpoint: Annotated[
        str | None,
        typer.Option(help="The step of the checkpoint to continue from, or `latest`. Without it: from the start."),
    ] = None,
) -> None:
    """Create a new job from one that has ended, and print its id."""
    start = int(from_checkpoint) if from_checkpoint and from_checkpoint.isdigit() else from_checkpoint
    with open_client() as client:
        typer.echo(client.post(f"/v1/jobs/{job}/retry", {"from_checkpoint": start})["id"])


@cli.command()
def download(
    job: JobId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put the files.")],
    checkpoint: Annotated[
        int | None, typer.Option(help="The step of a checkpoint. Without it: the published model.")
    ] = None,
) -> None:
    """Download a model, and verify the sha256 of every file. Run it again to resume an interrupted download."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with open_client() as client, Progress(*columns, console=console, transient=True) as bar:
        files = fetch(client, job, folder, checkpoint, _on_bytes(bar))
    say(f"{len(files)} files in {folder}; every sha256 was verified.")


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
