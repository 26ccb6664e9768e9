"""One API process in each shape, for all tests that only ask and answer."""

from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, Process, deployment
from servers import PostgresServer, RedisServer, S3Server

UPLOAD_LIMIT = str(8 << 20)


@pytest.fixture(scope="session")
def local_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Process]]:
    """SQLite, a folder, no broker."""
    with deployment(tmp_path_factory.mktemp("local"), TUNESMITH_UPLOAD_LIMIT_BYTES=UPLOAD_LIMIT) as service:
        yield service, service.start_api()


@pytest.fixture(scope="session")
def fleet_api(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, redis: RedisServer, s3: S3Server
) -> Iterator[tuple[Deployment, Process]]:
    """PostgreSQL, a Redis-protocol broker and S3."""
    name = uuid4().hex
    settings = {
        "TUNESMITH_DATABASE_URL": postgres.create_database(f"t{name}"),
        "TUNESMITH_BROKER_URL": redis.url,
        "TUNESMITH_STORAGE_URL": f"{s3.storage_url}/{name}",
        "TUNESMITH_UPLOAD_LIMIT_BYTES": UPLOAD_LIMIT,
        **s3.env,
    }
    with deployment(tmp_path_factory.mktemp("fleet"), **settings) as service:
        yield service, service.start_api()


@pytest.fixture(scope="session", params=["local", "fleet"])
def running(request: pytest.FixtureRequest) -> tuple[Deployment, Process]:
    """The service in each shape, and its API process."""
    return request.getfixturevalue(f"{request.param}_api")


@pytest.fixture
def service(running: tuple[Deployment, Process]) -> Deployment:
    """The service in each shape."""
    return running[0]


@pytest.fixture
def http(service: Deployment) -> Iterator[httpx.Client]:
    """A client with the key of a project that nothing else uses."""
    key = service.new_key(f"project-{uuid4().hex}")
    with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client


@pytest.fixture
def stranger(service: Deployment) -> Iterator[httpx.Client]:
    """A client with the key of yet another project."""
    key = service.new_key(f"stranger-{uuid4().hex}")
    with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def hooked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A service on each database whose webhooks may come to this machine."""
    settings = {"TUNESMITH_WEBHOOK_PRIVATE_ADDRESSES": "true"}
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        settings["TUNESMITH_DATABASE_URL"] = server.create_database(f"t{uuid4().hex}")
    with deployment(tmp_path_factory.mktemp("hooked"), **settings) as service:
        service.start_api()
        yield service


@pytest.fixture
def hooks(hooked: Deployment) -> Iterator[httpx.Client]:
    """A client of that service, with the key of a project that nothing else uses."""
    key = hooked.new_key(f"project-{uuid4().hex}")
    with httpx.Client(base_url=hooked.url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client
