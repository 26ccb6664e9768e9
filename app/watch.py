"""Shows a job while it runs: a progress bar with loss, speed and ETA, and lines for its events."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from app.client import Client, ClientError, Refused, Unreachable

POLL_SECONDS = 1.0
LINE_SECONDS = 10.0
"""Without a terminal for the progress bar, a line of progress is printed this often."""
PATIENCE_SECONDS = 120.0
"""How long to wait for a service that is unreachable. A restart or a failover takes less."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 10.0
TRY_LATER = (502, 503, 504)
ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class _Screen:
    console: Console
    bar: Progress
    task: TaskID
    seen: int = 0
    """The last event that was shown."""
    printed: float = field(default_factory=time.monotonic)

    def say(self, *parts: str | tuple[str, str]) -> None:
        # A Text is printed as it is: a name such as "run [/x]" in a plain string would be read as markup.
        self.console.print(Text.assemble(*parts))


def watch(client: Client, job_id: str, console: Console) -> dict[str, Any]:
    """Follow a job until it has ended, and return it.

    Waits up to two minutes for a service that is unreachable. Raises ClientError.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        screen = _Screen(console, bar, bar.add_task("queued", total=None, numbers="", loss=""))
        while True:
            job = _patiently(lambda: _look(client, job_id, screen), screen)
            if job["status"] in ENDED:
                return job
            time.sleep(POLL_SECONDS)


def metric_text(name: str, value: float | None) -> str:
    """One metric as people read it. A metric is None where it is undefined for the rows."""
    return f"{name} undefined" if value is None else f"{name} {value:.4g}"


def outcome(job: dict[str, Any]) -> str:
    """One paragraph on how a job ended."""
    used = _usage(job)
    if job["status"] == "succeeded":
        metrics = ", ".join(metric_text(name, value) for name, value in job["metrics"].items())
        return f"{job['id']} succeeded: {metrics}{used}\ndownload it: tunesmith download {job['id']} DIR"
    error: dict[str, Any] = job["error"] or {}
    if job["status"] == "failed":
        hint = f"\n{error['hint']}" if error.get("hint") else ""
        tail = f"\nThe last output:\n{error['log_tail']}" if error.get("log_tail") else ""
        return f"{job['id']} failed ({error.get('code')}): {error.get('message')}{hint}{used}{tail}"
    return f"{job['id']} was cancelled; its checkpoints can be downloaded with --checkpoint STEP{used}"


def _usage(job: dict[str, Any]) -> str:
    # A service of the previous version does not send these fields.
    if "running_seconds" not in job:
        return ""
    on_gpus = f", {job['gpu_seconds']:.0f} GPU-seconds" if job["gpu_seconds"] else ""
    return f"\nwaited {job['queued_seconds']:.0f} s, ran {job['running_seconds']:.0f} s{on_gpus}"


def _patiently(look: Callable[[], dict[str, Any]], screen: _Screen) -> dict[str, Any]:
    away_since: float | None = None
    wait = FIRST_WAIT_SECONDS
    while True:
        try:
            job = look()
        except ClientError as error:
            now = time.monotonic()
            if away_since is None:
                away_since = now
                if _may_pass(error):
                    screen.say(
                        (f"      the service is unreachable; trying for {PATIENCE_SECONDS:.0f} s: {error}", "yellow")
                    )
            if not _may_pass(error) or now + wait - away_since > PATIENCE_SECONDS:
                raise
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        else:
            if away_since is not None:
                screen.say(("      the service answers again", "yellow"))
            return job


def _may_pass(error: ClientError) -> bool:
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.status in TRY_LATER)


def _look(client: Client, job_id: str, screen: _Screen) -> dict[str, Any]:
    job = client.get(f"/v1/jobs/{job_id}")
    for event in client.events(job_id, screen.seen):
        _show(event, screen)
        screen.seen = event["id"]
    _describe(job, screen)
    if not screen.console.is_terminal and time.monotonic() - screen.printed > LINE_SECONDS:
        screen.printed = time.monotonic()
        screen.say(_line(job, screen))
    return job


def _show(event: dict[str, Any], screen: _Screen) -> None:
    data, number = event["data"], (f"{event['id']:>5}", "dim")
    if event["type"] == "note":
        screen.say(number, f" {data['message']}")
    elif event["type"] == "status" and data["to"] in ("running", "queued") and data["from"]:
        why = f" ({data['reason']})" if data["to"] == "queued" else f", attempt {event['attempt']}"
        error = data.get("error")
        retrying = f"; retrying after {error['code']}: {error['message']}" if error else ""
        screen.say(number, f" {data['to']}{why}{retrying}")
    elif event["type"] == "checkpoint":
        screen.say(number, f" checkpoint of step {data['step']}")
    elif event["type"] == "metric":
        values = {name: value for name, value in data["values"].items() if value is not None}
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if "loss" in values:
            screen.bar.update(screen.task, loss=f"loss {values['loss']:.4f}")
        else:
            screen.say(number, f" step {data['step']}: {numbers}")


def _describe(job: dict[str, Any], screen: _Screen) -> None:
    progress = job["progress"]
    if not progress:
        place = f", {job['queue_position']} before it" if job["queue_position"] is not None else ""
        screen.bar.update(screen.task, description=(job["phase"] or job["status"]) + place)
        return
    speed, eta = progress.get("samples_per_second"), progress.get("eta_seconds")
    parts = [
        screen.bar.tasks[0].fields["loss"],
        f"{speed:.1f} rows/s" if speed else "",
        f"{eta:.0f} s left" if eta is not None else "",
    ]
    screen.bar.update(
        screen.task,
        description=job["phase"] or job["status"],
        completed=progress["step"],
        total=progress["of"],
        numbers=" | ".join(part for part in parts if part),
    )


def _line(job: dict[str, Any], screen: _Screen) -> str:
    progress = job["progress"]
    steps = f" {progress['step']}/{progress['of']}" if progress else ""
    return f"      {job['phase'] or job['status']}{steps} {screen.bar.tasks[0].fields['numbers']}".rstrip()
