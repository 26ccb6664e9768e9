"""What a job is told when memory ran out, and what is tried next."""

import time
from pathlib import Path
from typing import Any

import pytest
from tiny import spec

from app.specs import JobSpec, Resolved
from worker import memory, out_of_memory
from worker.memory import MemoryWatch
from worker.supervise import Ending


def resolved(**more: Any) -> Resolved:
    settled: dict[str, Any] = {
        "labels": ["a", "b"], "precision": "fp32", "batch_size": 16, "gradient_accumulation": 2, "eval_batch_size": 32,
        "device": "cpu", "max_length": 128, "total_steps": 9, "metrics": [], "best_by": None, "model_commit": None,
        "datasets": {}, "rows": {}, "skipped_rows": 0, "versions": {},
    }  # fmt: skip
    return Resolved.model_validate({**settled, **more})


def job(batch_size: int | str = "auto", eval_batch_size: int | str = "auto") -> JobSpec:
    return JobSpec.model_validate(spec(training={"batch_size": batch_size}, evaluation={"batch_size": eval_batch_size}))


def ended(**more: Any) -> Ending:
    return Ending(**{"result": None, "asked": None, "log_tail": "", "phase": "training", **more})


SAID = {"status": "failed", "error": {"code": "out_of_memory", "message": "tried 2 GiB", "details": {"peak_bytes": 7}}}


@pytest.mark.parametrize(
    ("ending", "verdict"),
    [
        (ended(result=SAID), True),
        (ended(killed_for_memory=True), True),
        (ended(log_tail="terminate called after throwing an instance of 'std::bad_alloc'"), True),
        (ended(), False),
        (ended(log_tail="Segmentation fault"), False),
        (ended(result={"status": "failed", "error": {"code": "bad_rows"}}, killed_for_memory=True), False),
        (ended(result={"status": "stopped"}, killed_for_memory=True), False),
    ],
)
def test_only_a_counted_kill_or_its_own_words_make_it_out_of_memory(ending: Ending, verdict: bool) -> None:
    assert out_of_memory.is_why(ending) is verdict


def test_an_automatic_batch_is_halved_and_a_step_keeps_its_rows() -> None:
    smaller = out_of_memory.smaller(job(), resolved(), "training")
    assert smaller == resolved(batch_size=8, gradient_accumulation=4)
    assert out_of_memory.smaller(job(), resolved(), "evaluating") == resolved(eval_batch_size=16)


@pytest.mark.parametrize(
    ("asked", "settled", "phase"),
    [
        (job(batch_size=16), resolved(), "training"),
        (job(), resolved(batch_size=1), "training"),
        (job(eval_batch_size=32), resolved(), "evaluating"),
        (job(), resolved(eval_batch_size=1), "evaluating"),
        (job(), resolved(), "tokenizing"),
        (job(), resolved(), "packaging"),
    ],
)
def test_nothing_is_halved_where_it_was_asked_for_or_cannot_help(asked: JobSpec, settled: Resolved, phase: str) -> None:
    assert out_of_memory.smaller(asked, settled, phase) is None


def test_the_error_says_what_was_done_the_peak_and_what_to_change() -> None:
    error = out_of_memory.error(ended(result=SAID, peak_bytes=3 * 2**30), job(batch_size=16), resolved(), None)
    assert error["message"] == (
        "Memory ran out while training with 16 rows a forward pass of up to 128 tokens. It held 0.00 GiB at its peak."
    )
    assert 'training.batch_size to "auto"' in error["hint"]
    assert "or to 8 with training.gradient_accumulation 2" in error["hint"]
    assert error["details"]["peak_bytes"] == 7
    assert error["details"]["said"] == "tried 2 GiB"
    before = out_of_memory.error(ended(phase="preparing", peak_bytes=3 * 2**30), job(), None, None)
    assert "3.00 GiB" in before["message"]
    assert "data.subset" in before["hint"]


@pytest.mark.parametrize(
    ("membership", "counter", "text"),
    [
        ("0::/jobs/a\n", "jobs/a/memory.events", "low 0\noom 3\noom_kill {}\n"),
        ("0::/host/path/of/a/container\n", "memory.events", "oom_kill {}\n"),
        (
            "4:memory:/jobs/a\n0::/\n",
            "memory/jobs/a/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n",
        ),
        ("4:memory:/elsewhere\n", "memory/memory.oom_control", "oom_kill {}\n"),
    ],
    ids=["v2", "v2 in a container", "v1", "v1 in a container"],
)
def test_kills_are_counted_from_the_time_the_process_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, counter: str, text: str
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    file = tmp_path / "cgroup" / counter
    file.parent.mkdir(parents=True)
    file.write_text(text.format(4))
    proc = tmp_path / "proc" / "12"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(membership)
    (proc / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\n")
    watch = MemoryWatch(12)
    assert not watch.kernel_killed()
    file.write_text(text.format(5))
    assert watch.kernel_killed()
    assert watch.peak_bytes == 2048 * 1024
    now = time.monotonic()
    monkeypatch.setattr("worker.memory.time.monotonic", lambda: now + memory.WINDOW_SECONDS + 1)
    watch.sample()
    monkeypatch.setattr("worker.memory.time.monotonic", lambda: now + 2 * memory.WINDOW_SECONDS + 3)
    watch.sample()
    assert not watch.kernel_killed(), "that was a neighbour's end, long ago"


def test_a_process_that_is_gone_at_once_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    watch = MemoryWatch(12)
    assert (watch.peak_bytes, watch.kernel_killed()) == (None, False)
