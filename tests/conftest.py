"""Servers and databases that tests share: each test process has its own real ones."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import seeds
import warm_start
from hypothesis import settings as hypothesis_settings
from servers import PostgresServer, RedisServer, S3Server, postgres_server, redis_server, s3_server

from app import migrate
from app.db import Database

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Each process of the run computes with one thread: there are as many processes as cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A test says what is right, not how fast: the machine may be busy.
hypothesis_settings.register_profile("tunesmith", deadline=None)
hypothesis_settings.load_profile("tunesmith")

pytest_plugins = ["spread"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that production uses."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database(f"t{uuid4().hex}")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database of each kind."""
    opened = Database(database_url)
    migrate.upgrade(opened)
    yield opened
    opened.close()


SERVERS = {
    "sqlite": ("SQLite",),
    "local": ("SQLite",),
    "postgres": ("PostgreSQL",),
    "postgresql": ("PostgreSQL",),
    "redis": ("Redis protocol",),
    "s3": ("S3",),
    "fleet": ("PostgreSQL", "Redis protocol", "S3"),
}
"""Fixtures and parameters that are real servers, as the last line of a test run names them."""


@pytest.fixture(autouse=True)
def _note_servers(request: pytest.FixtureRequest) -> None:
    parameters = getattr(getattr(request.node, "callspec", None), "params", {}).values()
    names = {*request.fixturenames, *(value for value in parameters if isinstance(value, str))}
    used = sorted({server for name in names for server in SERVERS.get(name, ())})
    request.node.user_properties.append(("servers", used))


class _Tally:
    """Counts, in the process that reports, what ran against what."""

    def __init__(self) -> None:
        self.against: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1
            used = dict(report.user_properties).get("servers") or ["no server"]
            self.against.update(used if isinstance(used, list) else [])


TRAINING = {"train", "trained", "go"}
"""Fixtures that train a model."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TRAINING & set(getattr(item, "fixturenames", ())):
            item.add_marker("numeric")


def pytest_collection_finish() -> None:
    # What was imported stays: looking through all of it took two thirds of a training run of a few steps.
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    seeds.move_default()
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Tally(), "tally")
        warm_start.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        warm_start.end()
    tally = config.pluginmanager.get_plugin("tally")
    if isinstance(tally, _Tally) and tally.outcomes:
        against = ", ".join(f"{count} against {name}" for name, count in sorted(tally.against.items()))
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items()))
        print(f"tests: {outcomes}; {against}")  # noqa: T201 - the last line of a run says what ran
