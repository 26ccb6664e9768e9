"""The progress bar of a run by hand, drawn from the same records that the worker reads."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from worker.training.reports import Record


class ProgressBar:
    """A listener for `Reporter`. `result` is the last record's content once the run has ended."""

    def __init__(self) -> None:
        self.result: Record = {}
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            console=self._console,
        )
        self._task = self._bar.add_task("starting", total=None, details="")
        self._loss = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, record: Record) -> None:
        """Draw one record."""
        match record["type"]:
            case "phase":
                self._bar.update(self._task, description=record["phase"])
            case "progress":
                self._bar.update(
                    self._task, completed=record["step"], total=record["of"], details=self._details(record)
                )
            case "metric":
                self._show_metric(record["step"], record["values"])
            case "note":
                # A Text is printed as it is: a label such as "[/INST]" in a plain string would be read as markup.
                self._console.print(Text.assemble(("note:", "dim"), " ", record["message"]))
            case "checkpoint":
                best = " (best)" if record["is_best"] else ""
                self._console.print(Text(f"checkpoint {record['path']}{best}"))
            case "result":
                self.result = record
                self._console.print(_ending(record))
            case _:
                return

    def _details(self, record: Record) -> str:
        speed, left = record["samples_per_second"], record["eta_seconds"]
        parts = [self._loss, f"{speed:.1f} rows/s" if speed else "", f"{left:.0f} s left" if left else ""]
        return "  ".join(part for part in parts if part)

    def _show_metric(self, step: int, values: dict[str, Any]) -> None:
        if "loss" in values:
            self._loss = f"loss {_number(values['loss'])}"
        else:
            details = "  ".join(f"{name} {_number(value)}" for name, value in values.items())
            self._console.print(Text(f"step {step}: {details}"))


def _ending(record: Record) -> Text:
    details = "  ".join(f"{name} {_number(value)}" for name, value in record.get("metrics", {}).items())
    return Text.assemble((record["status"], "bold"), f" at step {record['step']}  {details}")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
