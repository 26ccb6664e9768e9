import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from injection import Kill, happened, injected

from worker.training.tokens.cache import EntryBroken, TokenCache, open_cache

SIZE = 100_000
KEEP = """
import sys
from pathlib import Path
from worker.training.tokens.cache import TokenCache
folder, source = map(Path, sys.argv[1:])
TokenCache(folder, 10**9).keep({"rows": "a"}, source, rows=3, truncated=1)
"""
CONTEND = """
import random, sys
from pathlib import Path
from worker.training.tokens.cache import TokenCache
folder, own, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
own.mkdir()
cache = TokenCache(folder, 3 * size)
hits = 0
for _ in range(60):
    name = random.choice("abcdefg")
    if cache.take({"rows": name}, own / "taken") is None:
        (own / "made").unlink(missing_ok=True)
        (own / "made").write_bytes(name.encode() * size)
        cache.keep({"rows": name}, own / "made", rows=1, truncated=0)
    else:
        hits += 1
        assert (own / "taken").read_bytes() == name.encode() * size
print(hits)
"""


def put(cache: TokenCache, name: str, used_at: float | None = None, size: int = SIZE) -> Path:
    """Keep tokens under this name, as last used at this time; returns the entry's file of tokens."""
    source = cache.folder.parent / f"source-{name}"
    source.write_bytes(name.encode() * size)
    before = set(cache.folder.glob("*.arrow"))
    assert cache.keep({"rows": name}, source, rows=1, truncated=0)
    tokens = (set(cache.folder.glob("*.arrow")) - before).pop()
    if used_at is not None:
        os.utime(tokens.with_suffix(".json"), (used_at, used_at))
    return tokens


def kept(cache: TokenCache) -> set[str]:
    return {json.loads(about.read_text())["identity"]["rows"] for about in cache.folder.glob("*.json")}


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    return TokenCache(tmp_path / "tokens", 10 * SIZE)


def test_what_was_kept_can_be_taken_and_nothing_else(cache: TokenCache, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    assert cache.take({"rows": "a"}, target) is None
    source = tmp_path / "source"
    source.write_bytes(b"tokens")
    assert cache.keep({"rows": "a"}, source, rows=3, truncated=2)
    assert cache.take({"rows": "b"}, target) is None
    assert not target.exists()
    assert cache.take({"rows": "a"}, target) == 2
    assert target.read_bytes() == b"tokens"
    assert target.stat().st_ino == source.stat().st_ino, "it was copied"
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".arrow", ".json"]


def test_the_same_tokens_can_be_kept_twice(cache: TokenCache, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"tokens")
    for _ in range(2):
        assert cache.keep({"rows": "a"}, source, rows=3, truncated=2)
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".arrow", ".json"]
    assert cache.take({"rows": "a"}, tmp_path / "taken") == 2


def test_the_least_recently_used_go_first_and_only_as_many_as_must(tmp_path: Path) -> None:
    cache, now = TokenCache(tmp_path / "tokens", int(3.5 * SIZE)), time.time()
    for name, age in (("a", 300), ("b", 200), ("c", 100)):
        put(cache, name, now - age)
    assert kept(cache) == {"a", "b", "c"}
    assert cache.take({"rows": "a"}, tmp_path / "taken") == 0
    put(cache, "d")
    assert kept(cache) == {"a", "c", "d"}
    put(cache, "e", size=2 * SIZE)
    assert kept(cache) == {"d", "e"}


def test_what_a_job_has_taken_stays_when_the_entry_goes(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "tokens", int(1.5 * SIZE))
    put(cache, "a", time.time() - 100)
    assert cache.take({"rows": "a"}, tmp_path / "taken") == 0
    put(cache, "b", time.time() + 100)
    assert kept(cache) == {"b"}
    assert (tmp_path / "taken").read_bytes() == b"a" * SIZE


def test_tokens_above_the_whole_limit_are_not_kept_and_evict_nothing(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "tokens", int(1.5 * SIZE))
    put(cache, "a")
    large = tmp_path / "large"
    large.write_bytes(b"b" * 2 * SIZE)
    assert not cache.keep({"rows": "b"}, large, rows=1, truncated=0)
    assert kept(cache) == {"a"}


def test_without_folder_or_room_there_is_no_cache(tmp_path: Path) -> None:
    assert open_cache(None, SIZE) is None
    assert open_cache(tmp_path, 0) is None
    assert open_cache(tmp_path, SIZE) == TokenCache(tmp_path, SIZE)


@pytest.mark.parametrize(
    "damage", ["cut short", "emptied", "one byte", "no JSON", "half the JSON", "other JSON", "a list"]
)
def test_a_damaged_entry_is_never_taken_and_goes(cache: TokenCache, tmp_path: Path, damage: str) -> None:
    tokens = put(cache, "a")
    about = tokens.with_suffix(".json")
    whole = tokens.read_bytes()
    {
        "cut short": lambda: os.truncate(tokens, SIZE - 1),
        "emptied": lambda: os.truncate(tokens, 0),
        "one byte": lambda: tokens.write_bytes(b"x" + whole[1:]),
        "no JSON": lambda: about.write_bytes(b"\xff\x00"),
        "half the JSON": lambda: os.truncate(about, about.stat().st_size // 2),
        "other JSON": lambda: about.write_text("{}"),
        "a list": lambda: about.write_text("[]"),
    }[damage]()
    with pytest.raises(EntryBroken):
        cache.take({"rows": "a"}, tmp_path / "taken")
    assert list(cache.folder.iterdir()) == []
    assert cache.take({"rows": "a"}, tmp_path / "taken") is None


def test_half_an_entry_is_no_entry(cache: TokenCache, tmp_path: Path) -> None:
    put(cache, "a").unlink()
    put(cache, "b").with_suffix(".json").unlink()
    assert cache.take({"rows": "a"}, tmp_path / "taken") is None
    assert cache.take({"rows": "b"}, tmp_path / "taken") is None
    assert put(cache, "a").exists()
    assert cache.take({"rows": "a"}, tmp_path / "taken") == 0


@pytest.mark.parametrize(
    "kill",
    [
        Kill("open", r"\.partial$", 1),
        Kill("os.rename", r"\.arrow$"),
        Kill("open", r"\.partial$", 3),
        Kill("open", r"\.partial$", 4),
        Kill("os.rename", r"\.json$"),
    ],
    ids=["linked", "before the tokens", "after the tokens", "facts written", "before the facts"],
)
def test_a_write_that_is_killed_leaves_no_entry_and_what_it_left_goes_with_time(
    cache: TokenCache, tmp_path: Path, kill: Kill
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"tokens")
    command = [sys.executable, "-c", KEEP, str(cache.folder), str(source)]
    environment = {**os.environ, **injected(tmp_path / "done", kill)}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert happened(tmp_path / "done") == [0]
    left = set(cache.folder.iterdir())
    assert left, "it was killed before it began"
    assert cache.take({"rows": "a"}, tmp_path / "taken") is None

    put(cache, "b")
    assert left < set(cache.folder.iterdir()), "what may be another's running write was taken away"
    for path in left:
        os.utime(path, (time.time() - 7200,) * 2)
    put(cache, "c")
    assert not left & set(cache.folder.iterdir())
    assert kept(cache) == {"b", "c"}

    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert cache.take({"rows": "a"}, tmp_path / "taken") == 1


def test_a_file_of_somebody_else_is_left_alone(cache: TokenCache) -> None:
    put(cache, "a")
    note = cache.folder / "README"
    note.write_text("mine")
    os.utime(note, (0, 0))
    put(cache, "b")
    assert note.read_text() == "mine"


def test_processes_that_write_take_and_evict_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CONTEND, str(folder), str(tmp_path / f"own-{number}"), str(SIZE)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 4, outputs
    assert sum(int(hits) for hits, _ in outputs) > 0
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3 * SIZE
    assert not list(folder.glob("*.partial"))
    assert kept(TokenCache(folder, 1)), "everything was evicted"
