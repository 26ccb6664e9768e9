"""Shows a job while it runs: a bar with loss, speed and ETA, and lines for what happens."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from app.client import Client

POLL_SECONDS = 1.0
LINE_SECONDS = 10.0
"""Where there is no terminal to draw a bar on, a line of progress comes this often."""
ENDED = ("succeeded", "failed", "cancelled")


def watch(client: Client, job_id: str, console: Console) -> dict[str, Any]:
    """Follow a job until it has ended and return it. Raises ClientError."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    seen, printed = 0, time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("queued", total=None, numbers="", loss="")
        while True:
            job = client.get(f"/v1/jobs/{job_id}")
            for event in client.events(job_id, seen):
                seen = event["id"]
                _show(event, bar, task, console)
            _describe(job, bar, task)
            if not console.is_terminal and time.monotonic() - printed > LINE_SECONDS:
                printed = time.monotonic()
                console.print(_line(job, bar), highlight=False)
            if job["status"] in ENDED:
                return job
            time.sleep(POLL_SECONDS)


def outcome(job: dict[str, Any]) -> str:
    """One paragraph on how a job ended."""
    if job["status"] == "succeeded":
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in job["metrics"].items())
        return f"{job['id']} succeeded: {metrics}\ndownload it: tunesmith download {job['id']} DIR"
    error: dict[str, Any] = job["error"] or {}
    if job["status"] == "failed":
        hint = f"\n{error['hint']}" if error.get("hint") else ""
        tail = f"\nThe last output:\n{error['log_tail']}" if error.get("log_tail") else ""
        return f"{job['id']} failed ({error.get('code')}): {error.get('message')}{hint}{tail}"
    return f"{job['id']} was cancelled; its checkpoints can be downloaded with --checkpoint STEP"


def _show(event: dict[str, Any], bar: Progress, task: TaskID, console: Console) -> None:
    data = event["data"]
    if event["type"] == "note":
        console.print(f"[dim]{event['id']:>5}[/] {data['message']}", highlight=False)
    elif event["type"] == "status" and data["to"] in ("running", "queued") and data["from"]:
        why = f" ({data['reason']})" if data["to"] == "queued" else f", attempt {event['attempt']}"
        console.print(f"[dim]{event['id']:>5}[/] {data['to']}{why}", highlight=False)
    elif event["type"] == "checkpoint":
        console.print(f"[dim]{event['id']:>5}[/] checkpoint of step {data['step']}", highlight=False)
    elif event["type"] == "metric":
        values = {name: value for name, value in data["values"].items() if value is not None}
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if "loss" in values:
            bar.update(task, loss=f"loss {values['loss']:.4f}")
        else:
            console.print(f"[dim]{event['id']:>5}[/] step {data['step']}: {numbers}", highlight=False)


def _describe(job: dict[str, Any], bar: Progress, task: TaskID) -> None:
    progress = job["progress"]
    if not progress:
        place = f", {job['queue_position']} before it" if job["queue_position"] is not None else ""
        bar.update(task, description=(job["phase"] or job["status"]) + place)
        return
    speed, eta = progress.get("samples_per_second"), progress.get("eta_seconds")
    parts = [
        bar.tasks[0].fields["loss"],
        f"{speed:.1f} rows/s" if speed else "",
        f"{eta:.0f} s left" if eta is not None else "",
    ]
    bar.update(
        task,
        description=job["phase"] or job["status"],
        completed=progress["step"],
        total=progress["of"],
        numbers=" | ".join(part for part in parts if part),
    )


def _line(job: dict[str, Any], bar: Progress) -> str:
    progress = job["progress"]
    steps = f" {progress['step']}/{progress['of']}" if progress else ""
    return f"      {job['phase'] or job['status']}{steps} {bar.tasks[0].fields['numbers']}".rstrip()
