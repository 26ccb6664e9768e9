import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import sentences

from app.specs import JobSpec
from worker.training.checkpoints.folders import newest_valid
from worker.training.inputs.data import load_data
from worker.training.planning.plan import Plan
from worker.training.planning.planner import make_plan
from worker.training.reports import Record, Reporter
from worker.training.request import TrainingRequest
from worker.training.tasks import TASKS

LIMIT = 10**8
TAKEN = "train: 24 rows were tokenized before; taken from the cache"
CUT = "24 of 24 train rows were truncated to 4 tokens"


class Settled:
    """A job that was resolved and tokenized, and its reports."""

    def __init__(self, plan: Plan, records: list[Record]) -> None:
        self.plan = plan
        self.notes = [record["message"] for record in records if record["type"] == "note"]
        self.train = plan.scratch / "tokens-train.arrow"


@pytest.fixture
def job(tmp_path: Path, models_dir: Path, spec: Callable[..., JobSpec]) -> Callable[..., Settled]:
    """Settles a job with short tokens in a folder of its own, over one cache."""

    def go(name: str, cache: Path = tmp_path / "tokens", limit: int = LIMIT, **parts: Any) -> Settled:
        records: list[Record] = []
        asked = spec(**{"tokenization": {"max_length": 4}, **parts})
        request = TrainingRequest(
            asked, tmp_path / name, {}, models_dir, {}, None, None, token_cache=cache, token_cache_bytes=limit
        )
        report, stop, task = Reporter(tmp_path / name, records.append), threading.Event(), TASKS[asked.task.type]
        data = load_data(request, report, stop)
        return Settled(make_plan(request, task, data, report, stop), records)

    return go


@pytest.fixture(params=["64k", "16m"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of this size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param},mode=0777", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_later_job_gets_the_very_same_tokens_and_notes(job: Callable[..., Settled]) -> None:
    first, second = job("first"), job("second")
    assert CUT in first.notes
    assert TAKEN not in first.notes
    assert [note for note in second.notes if "taken from the cache" not in note] == first.notes
    assert TAKEN in second.notes
    assert second.train.read_bytes() == first.train.read_bytes()
    assert second.train.samefile(first.train)
    assert second.plan.encoded["train"][:] == first.plan.encoded["train"][:]
    assert second.plan.encoded["eval"][:] == first.plan.encoded["eval"][:]


def test_other_rows_or_settings_are_tokenized_anew(job: Callable[..., Settled]) -> None:
    first = job("first")
    for name, other in {
        "rows": job("rows", data={"train": {"rows": sentences(24)[::-1]}}),
        "length": job("length", tokenization={"max_length": 5}),
        "labels": job("labels", task={"type": "text-classification", "labels": ["good", "bad"]}),
    }.items():
        assert TAKEN not in other.notes, name
        assert other.plan.encoded["train"][:] != first.plan.encoded["train"][:], name


def test_a_split_that_is_the_same_is_taken_beside_one_that_is_not(job: Callable[..., Settled]) -> None:
    first = job("first")
    second = job("second", data={"eval": {"rows": sentences(8)}})
    assert TAKEN in second.notes
    assert not any(note.startswith("eval:") for note in second.notes)
    assert len(second.plan.encoded["eval"]) == 8
    assert len(first.plan.encoded["eval"]) == 10


def test_a_damaged_entry_is_tokenized_anew_with_a_note(job: Callable[..., Settled], tmp_path: Path) -> None:
    first = job("first")
    tokens = first.train.read_bytes()
    entry = next(path for path in (tmp_path / "tokens").glob("*.arrow") if path.samefile(first.train))
    os.truncate(entry, len(tokens) // 2)
    second = job("second")
    assert "train: the tokens in the cache were damaged; the rows are tokenized again" in second.notes
    assert TAKEN not in second.notes
    assert second.train.read_bytes() == tokens
    assert TAKEN in job("third").notes


def test_a_second_attempt_in_the_same_folder_writes_into_no_entry(job: Callable[..., Settled]) -> None:
    first = job("out")
    tokens = first.train.read_bytes()
    assert job("out", tokenization={"max_length": 6}).train.read_bytes() != tokens
    again = job("again")
    assert TAKEN in again.notes
    assert again.train.read_bytes() == tokens


def test_an_attempt_that_resumes_takes_what_the_first_one_kept(
    spec: Callable[..., JobSpec], train: Callable[..., Any], tmp_path: Path
) -> None:
    cache = {"token_cache": tmp_path / "tokens", "token_cache_bytes": LIMIT}
    first = train(spec(), stop_when=lambda record: record["type"] == "checkpoint", **cache)
    assert first.result["status"] == "stopped"
    checkpoint = newest_valid(first.out_dir / "checkpoints")
    second = train(spec(), "second", resolved=first.resolved, resume_from=checkpoint, **cache)
    assert second.result["status"] == "succeeded"
    assert TAKEN in [record["message"] for record in second.of("note")]
    undisturbed = train(spec(), "undisturbed")
    assert second.weights == undisturbed.weights


def test_a_job_that_is_stopped_before_its_tokens_are_taken_does_not_train(
    spec: Callable[..., JobSpec], train: Callable[..., Any], tmp_path: Path
) -> None:
    cache = {"token_cache": tmp_path / "tokens", "token_cache_bytes": LIMIT}
    assert train(spec(), **cache).result["status"] == "succeeded"
    stopped = train(spec(), "second", stop_when=lambda record: record.get("phase") == "tokenizing", **cache)
    assert (stopped.result["status"], stopped.result["step"]) == ("stopped", 0)
    assert "training" not in [record["phase"] for record in stopped.of("phase")]


def test_with_no_bytes_nothing_is_kept(job: Callable[..., Settled], tmp_path: Path) -> None:
    job("first", limit=0)
    assert not (tmp_path / "tokens").exists()
    assert TAKEN not in job("second", limit=0).notes


def test_a_cache_that_cannot_be_used_fails_no_job(job: Callable[..., Settled], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file where the folder should be")
    done = job("first")
    assert "train: the tokens were not kept for later jobs: File exists" in done.notes
    assert len(done.plan.encoded["train"]) == 24


def test_a_cache_on_another_disk_is_copied_from_and_its_full_disk_fails_no_job(
    disk: Path, job: Callable[..., Settled]
) -> None:
    data = {"train": {"rows": sentences(3000)}}
    first, second = (job(name, disk / "tokens", data=data) for name in ("first", "second"))
    assert second.train.read_bytes() == first.train.read_bytes()
    assert not second.train.samefile(first.train)
    taken = "train: 3000 rows were tokenized before; taken from the cache"
    full = "train: the tokens were not kept for later jobs: No space left on device"
    has_room = os.statvfs(disk).f_blocks * os.statvfs(disk).f_frsize > first.train.stat().st_size
    assert (taken in second.notes, full in first.notes) == (has_room, not has_room)
    assert not list((disk / "tokens").glob("*.partial"))
