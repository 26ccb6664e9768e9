"""What must be true of every service after any fault, once all of its processes have ended."""

import hashlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import event_data
from deployment import Deployment
from sqlalchemy import select

from app.datasets.tables import Dataset
from app.db import Database
from app.garbage_collection import collect
from app.jobs.states import TERMINAL, JobStatus
from app.jobs.tables import Artifact, Event, Job
from app.storage import Storage

END_SECONDS = 20.0
"""A forkserver that holds torch takes some seconds to end on a busy machine."""


def check(service: Deployment) -> None:
    """Check them all; the processes must have ended."""
    _no_process_is_left(service.folder)
    _no_attempt_ran_twice(service)
    database = Database(service.database_url)
    try:
        with database.read() as session:
            jobs = session.scalars(select(Job)).all()
            events = session.scalars(select(Event).order_by(Event.job_id, Event.seq)).all()
            artifacts = session.scalars(select(Artifact)).all()
        for job in jobs:
            _history_is_sound(job, [event for event in events if event.job_id == job.id])
            _one_model_at_most(job, [item for item in artifacts if item.job_id == job.id and item.kind == "model"])
        _storage_is_known(database, service.open_storage())
    finally:
        database.close()


def processes_in(folder: Path) -> dict[int, str]:
    """Pid to command line of every process that runs in a folder."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(process.name)] = command
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            # It ended meanwhile, or is somebody else's.
            continue
    return found


def _no_process_is_left(folder: Path) -> None:
    # Every process of a service starts in its folder, and children stay where they are born.
    deadline = time.monotonic() + END_SECONDS
    while (left := processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"processes outlived the service: {left}"


def _no_attempt_ran_twice(service: Deployment) -> None:
    begun = Counter(
        begin for process in service.processes for begin in re.findall(r"job (\S+): attempt (\d+) begins", process.log)
    )
    assert not [begin for begin, times in begun.items() if times > 1], begun


def _history_is_sound(job: Job, events: Sequence[Event]) -> None:
    assert [event.seq for event in events] == list(range(1, job.event_seq + 1)), f"{job.id}: event ids have gaps"
    attempts = [event.attempt for event in events]
    assert attempts == sorted(attempts), f"{job.id}: the attempt fell: {attempts}"
    event_data.check(events)
    taken = [event.data for event in events if event.type == "status"]
    places = [None, *(transition["to"] for transition in taken)]
    assert [transition["from"] for transition in taken] == places[:-1], f"{job.id}: {taken}"
    assert not TERMINAL.intersection(filter(None, places[:-1])), f"{job.id} left a final state: {taken}"
    assert places[-1] == job.status
    assert places.count(JobStatus.RUNNING) == job.attempt, f"{job.id}: {taken}"


def _one_model_at_most(job: Job, models: Sequence[Artifact]) -> None:
    published = [job.artifact_id] if job.status == JobStatus.SUCCEEDED else []
    assert [model.id for model in models] == published, f"{job.id} is {job.status} and has {len(models)} models"
    assert (job.artifact_id is not None) == (job.status == JobStatus.SUCCEEDED)


def _storage_is_known(database: Database, storage: Storage) -> None:
    collect(database, storage)
    with database.read() as session:
        artifacts = session.scalars(select(Artifact)).all()
        datasets = set(session.scalars(select(Dataset.id)))
    stored: dict[str, set[str]] = defaultdict(set)
    for path in storage.list("jobs"):
        stored["/".join(path.split("/")[:4])].add(path)
    named = {artifact.prefix for artifact in artifacts}
    assert not stored.keys() - named, "objects that no row names and that were not collected"
    assert not named - stored.keys(), "rows without their objects"
    for artifact in artifacts:
        manifest = f"{artifact.prefix}/manifest.json"
        assert stored[artifact.prefix] == {f"{artifact.prefix}/{file['path']}" for file in artifact.files} | {manifest}
        assert hashlib.sha256(b"".join(storage.read(manifest))).hexdigest() == artifact.manifest_sha256
    assert {path.split("/")[1] for path in storage.list("datasets")} <= datasets
