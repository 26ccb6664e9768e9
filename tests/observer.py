"""Looks at the database while a test runs, and notes what must never be seen."""

import re
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from deployment import Deployment
from sqlalchemy import Row, select
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database, now
from app.jobs.states import TERMINAL, JobStatus
from app.jobs.tables import Job
from app.workers.tables import Worker

LOOK_SECONDS = 0.25
ROOM_SECONDS = 6.0
"""What a busy machine may add to one sweep and one poll before a waiting job counts as forgotten."""


class Seen(NamedTuple):
    """What one look found."""

    jobs: list[Row[Any]]
    """id, status, attempt, owner, and whether a worker may claim it now."""
    workers: list[Row[Any]]
    """id, pid and slots of those heard within two heartbeats and a bit."""


class Observer:
    """A thread that looks four times a second. While the database does not answer, it sees nothing."""

    def __init__(self, service: Deployment) -> None:
        self._service = service
        self._heartbeat = float(service.settings["TUNESMITH_HEARTBEAT_SECONDS"])
        self._patience = ROOM_SECONDS + sum(
            float(service.settings[f"TUNESMITH_{name}_SECONDS"]) for name in ("SWEEP", "POLL")
        )
        self._last: dict[str, Row[Any]] = {}
        self._idle_since: dict[str, float] = {}
        self._warm: set[str] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)
        self.looks = 0
        self.violations: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        database = Database(self._service.database_url, pool_size=1)
        try:
            while not self._done.wait(LOOK_SECONDS):
                try:
                    seen = self._look(database)
                except SQLAlchemyError:
                    # What was not seen cannot be evaluated: a wait begins anew when the database is back.
                    self._idle_since.clear()
                    continue
                self.looks += 1
                self._judge_transitions(seen)
                self._judge_waits(seen)
        except Exception as error:  # noqa: BLE001 - an observer that is blind must fail the test, not end in silence
            self.violations.append(f"the observer failed: {error!r}")
        finally:
            database.close()

    def _look(self, database: Database) -> Seen:
        free_to_claim = (
            (Job.available_at <= now()) & Job.cancel_requested_at.is_(None) & Job.pause_requested_at.is_(None)
        )
        heard = Worker.last_seen_at > now() - 2.5 * self._heartbeat
        with database.read() as session:
            jobs = session.execute(
                select(Job.id, Job.status, Job.attempt, Job.owner, free_to_claim.label("is_free"))
            ).all()
            workers = session.execute(
                select(Worker.id, Worker.pid, Worker.slots).where(Worker.stopped_at.is_(None), heard)
            ).all()
        return Seen(list(jobs), list(workers))

    def _judge_transitions(self, seen: Seen) -> None:
        for job in seen.jobs:
            last = self._last.get(job.id)
            if (
                last is not None
                and last.status in TERMINAL
                and (job.status, job.attempt) != (last.status, last.attempt)
            ):
                self.violations.append(f"{job.id} was {last.status} and became {job.status}, attempt {job.attempt}")
            if last is not None and job.attempt < last.attempt:
                self.violations.append(f"the attempt of {job.id} fell from {last.attempt} to {job.attempt}")
            self._last[job.id] = job

    def _judge_waits(self, seen: Seen) -> None:
        owners = [job.owner for job in seen.jobs if job.status == JobStatus.RUNNING]
        has_room = any(owners.count(worker.id) < worker.slots and self._serves(worker) for worker in seen.workers)
        waiting = {job.id for job in seen.jobs if has_room and job.status == JobStatus.QUEUED and job.is_free}
        self._idle_since = {job_id: self._idle_since.get(job_id, time.monotonic()) for job_id in waiting}
        for job_id, since in self._idle_since.items():
            if time.monotonic() - since > self._patience:
                self.violations.append(f"{job_id} waited {self._patience} s beside a free slot of a live worker")
                self._idle_since[job_id] = time.monotonic()

    def _serves(self, worker: Row[Any]) -> bool:
        # A row is there before the worker is warm, and while it is stopped or asked to stop.
        reported = any(
            process.is_asked_to_stop and process.popen.pid == worker.pid for process in self._service.processes
        )
        if worker.id not in self._warm:
            logs = [process.log for process in self._service.processes]
            self._warm.update(found for log in logs for found in re.findall(r"worker (\S+) takes jobs", log))
        return not reported and worker.id in self._warm and _runs(worker.pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state in ("R", "S", "D")
