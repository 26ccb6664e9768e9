"""The entries of a job's event log: their types, and what the data of each type holds."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, cast

from app.jobs.states import Edge, JobStatus


class EventType(StrEnum):
    """The type of an event."""

    STATUS = "status"
    PHASE = "phase"
    RESOLVED = "resolved"
    PROGRESS = "progress"
    METRIC = "metric"
    NOTE = "note"
    CHECKPOINT = "checkpoint"
    INTENT = "intent"


StatusData = TypedDict(
    "StatusData",
    {
        "from": str | None,
        "to": str,
        "actor": str,
        "reason": str,
        "owner": NotRequired[str],
        "parent": NotRequired[str],
        "error": NotRequired[dict[str, Any]],
    },
)
"""A transition. `owner` is the worker that claimed the job, `parent` the job that this one retries."""


class PhaseData(TypedDict):
    """What the training process is doing from now on."""

    phase: str


class ResolvedData(TypedDict):
    """The values that were chosen for defaults and `auto`."""

    resolved: dict[str, Any]


class ProgressData(TypedDict):
    """How far training is."""

    step: int
    of: int
    epoch: float
    samples_per_second: float | None
    eta_seconds: float | None


class MetricData(TypedDict):
    """One point of the metric series."""

    step: int
    epoch: float | None
    values: dict[str, float | None]


class NoteData(TypedDict):
    """Something that the user should see. `engine` is the engine that no worker offers."""

    message: str
    engine: NotRequired[str]


class CheckpointData(TypedDict):
    """A checkpoint that can be downloaded from now on."""

    step: int
    epoch: float | None
    metrics: dict[str, float | None]
    is_best: bool


class IntentData(TypedDict):
    """A request about a running job."""

    intent: Literal["cancel", "pause"]
    actor: str


Data = StatusData | PhaseData | ResolvedData | ProgressData | MetricData | NoteData | CheckpointData | IntentData
DATA: Mapping[EventType, type] = {
    EventType.STATUS: StatusData,
    EventType.PHASE: PhaseData,
    EventType.RESOLVED: ResolvedData,
    EventType.PROGRESS: ProgressData,
    EventType.METRIC: MetricData,
    EventType.NOTE: NoteData,
    EventType.CHECKPOINT: CheckpointData,
    EventType.INTENT: IntentData,
}
"""What the data of each type of event holds."""


class Entry(NamedTuple):
    """An event that is still to be written."""

    type: EventType
    data: Data


def described() -> str:
    """The types of events and the fields of each, as docs/api.md and the OpenAPI text list them."""
    return ", ".join(f"`{kind}` ({', '.join(DATA[kind].__annotations__)})" for kind in EventType)


def status(edge: Edge, *, owner: str | None = None, error: Mapping[str, Any] | None = None) -> Entry:
    """A job took this edge of the state machine."""
    data: StatusData = {"from": edge.source, "to": edge.target, "actor": edge.actor, "reason": edge.reason}
    if owner is not None:
        data["owner"] = owner
    if error is not None:
        data["error"] = dict(error)
    return Entry(EventType.STATUS, data)


def submitted(parent: str | None) -> Entry:
    """A job was created; `parent` is the job that it retries."""
    data: StatusData = {"from": None, "to": JobStatus.QUEUED, "actor": "user", "reason": "submitted"}
    if parent is not None:
        data["parent"] = parent
    return Entry(EventType.STATUS, data)


def note(message: str, engine: str | None = None) -> Entry:
    """Something that the user should see."""
    data: NoteData = {"message": message}
    if engine is not None:
        data["engine"] = engine
    return Entry(EventType.NOTE, data)


def checkpoint(*, step: int, epoch: float | None, metrics: dict[str, Any], is_best: bool) -> Entry:
    """A checkpoint is in storage."""
    return Entry(EventType.CHECKPOINT, CheckpointData(step=step, epoch=epoch, metrics=metrics, is_best=is_best))


def requested(intent: Literal["cancel", "pause"]) -> Entry:
    """A user requested something that the worker has yet to do."""
    return Entry(EventType.INTENT, IntentData(intent=intent, actor="user"))


def reported(kind: str, data: Mapping[str, Any]) -> Entry:
    """What the training process reported (`worker.training.reports`). Raises ValueError if there is no such event."""
    return Entry(EventType(kind), cast("Data", data))
