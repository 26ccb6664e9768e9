"""Services that are watched while a fault happens to them, and evaluated afterwards."""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import invariants
import pytest
from deployment import Deployment, deployment
from observer import Observer

Watch = Callable[..., AbstractContextManager[Deployment]]
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def watch(request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path) -> Watch:
    """A service of the given settings for a `with` block, at whose end it is stopped and evaluated."""

    @contextmanager
    def watched(**settings: str) -> Iterator[Deployment]:
        with deployment(tmp_path / "service", **settings) as service:
            (service.folder / "models" / "tiny").symlink_to(tiny_model)
            observer = Observer(service)
            observer.start()
            try:
                yield service
                service.close()
            finally:
                observer.stop()
            # After a failure, what else is found is only what followed from it.
            if not request.node.stash.get(FAILED, False):
                assert observer.looks
                assert not observer.violations
                invariants.check(service)

    return watched


@pytest.fixture
def local(watch: Watch) -> Iterator[Deployment]:
    """SQLite, a folder, no broker."""
    with watch() as service:
        yield service


@pytest.fixture
def fleet(watch: Watch, fleet_settings: dict[str, str]) -> Iterator[Deployment]:
    """Everything that production uses."""
    with watch(**fleet_settings) as service:
        yield service
