"""A whole service for each test, in both shapes: one machine, and a fleet."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from deployment import Deployment, deployment
from servers import PostgresServer, RedisServer, S3Server
from tiny import make_model

SHAPES = ("local", "fleet")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of a few thousand weights."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def fleet_settings(postgres: PostgresServer, redis: RedisServer, s3: S3Server) -> dict[str, str]:
    """PostgreSQL, a Redis-protocol broker and S3."""
    name = uuid4().hex
    return {
        "TUNESMITH_DATABASE_URL": postgres.create_database(f"t{name}"),
        "TUNESMITH_BROKER_URL": redis.url,
        "TUNESMITH_STORAGE_URL": f"{s3.storage_url}/{name}",
        **s3.env,
    }


@pytest.fixture
def local(tmp_path: Path, tiny_model: Path) -> Iterator[Deployment]:
    """SQLite, a folder, no broker."""
    with deployment(tmp_path / "service") as service:
        (service.folder / "models" / "tiny").symlink_to(tiny_model)
        yield service


@pytest.fixture
def fleet(tmp_path: Path, tiny_model: Path, fleet_settings: dict[str, str]) -> Iterator[Deployment]:
    """Everything that production uses."""
    with deployment(tmp_path / "service", **fleet_settings) as service:
        (service.folder / "models" / "tiny").symlink_to(tiny_model)
        yield service


@pytest.fixture(params=SHAPES)
def service(request: pytest.FixtureRequest) -> Deployment:
    """Each shape in turn."""
    return request.getfixturevalue(request.param)
