"""What is known of a training process's memory."""

import time
from pathlib import Path

import pytest

from worker import memory
from worker.memory import MemoryWatch


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
