"""Spreads the tests over the processes that run them: what is cheap first, then the longest first.

How long a test took is recorded in tests/durations.json by `make durations`; a test that is not in it is taken for short.
Short tests of one file stay together, because they share fixtures; a long one goes wherever a process is free, unless what
it shares takes long to make (`SHARED` and `WHOLE`).
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

RECORDED = Path(__file__).with_name("durations.json")
LONG_SECONDS = 3.0
"""A test that takes longer is a group of its own."""
NOTED_SECONDS = 0.5
"""A shorter test is not recorded."""
SHARED = {"tests/conformance/test_results.py"}
"""Files whose tests look at one long run for each parameter."""
WHOLE = {"tests/unit/training/test_stream.py"}
"""Files whose tests share a process that takes long to start."""
SHOWN_SECONDS = 5.0
"""A test that took longer says so as soon as it has ended, so that a run that is stopped tells where the time went."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help=f"write {RECORDED.name} anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests in the order in which they are handed out."""
    recorded = _recorded()
    groups: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        groups[group(item.nodeid, recorded)].append(item)

    def rank(name: str) -> tuple[bool, float]:
        seconds = sum(recorded.get(item.nodeid, 0.0) for item in groups[name])
        return (not name.startswith("tests/unit/") or seconds > LONG_SECONDS, -seconds)

    items[:] = [item for name in sorted(groups, key=rank) for item in groups[name]]


def group(test: str, recorded: dict[str, float]) -> str:
    """What stays together with this test: its file, itself alone, or its file and parameter."""
    file, _, name = test.partition("::")
    if file in WHOLE:
        return file
    if file in SHARED:
        return f"{file}{name[name.find('[') :]}"
    return test if recorded.get(test, 0.0) > LONG_SECONDS else file


class Scheduler(LoadScopeScheduling):
    """Hands out whole groups, in the order of the collected tests."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._recorded = _recorded()

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid, self._recorded)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    """Spread as this module says, whatever `--dist` is."""
    return Scheduler(config, log)


def _recorded() -> dict[str, float]:
    return json.loads(RECORDED.read_text())


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show how long a long test took."""
    if report.when == "call" and report.outcome == "passed" and report.duration > SHOWN_SECONDS:
        return "passed", ".", f"PASSED in {report.duration:.0f} s"
    return None


class Durations:
    """Adds up, in the process that reports, how long each test took with its fixtures."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        kept = {test: round(spent, 1) for test, spent in sorted(self._seconds.items()) if spent >= NOTED_SECONDS}
        RECORDED.write_text(json.dumps(kept, indent=0) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("record_durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations(), "durations")
