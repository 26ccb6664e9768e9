"""`tunesmith up`: API and worker on one machine. Each is a process that is restarted when it dies."""

import errno
import os
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import auth, migrate
from app.db import Database
from app.errors import Unauthorized
from app.explain import CannotRun
from app.keeper import keep_running
from app.private_files import keep_private
from app.settings import Settings

BACKLOG = 2048
API_GRACE_SECONDS = 30.0
"""Longer than open requests get at the end of a process."""


def check_address(host: str, port: int) -> None:
    """Check that the API can listen on this address; otherwise it would be restarted forever. Raises CannotRun."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotRun(f"--host {host} is not an address of this machine: {error.strerror}") from error
    refusals = [refusal for family, _, _, _, address in found if (refusal := _refusal(family, address))]
    if any(refusal.errno == errno.EADDRINUSE for refusal in refusals):
        raise CannotRun(
            f"port {port} of {host} is taken: is Tunesmith running already? If not, choose another with --port"
        )
    if len(refusals) == len(found):
        raise CannotRun(f"nothing can listen on {host}, port {port}: {refusals[0].strerror}")


def set_up(settings: Settings, say: Callable[[str], None]) -> Path:
    """Migrate the database, make sure that the key file has a valid key, and return that file.

    If its key is not valid, the project `default` gets a new key. `say` is called if that replaces an older key.
    """
    keep_private(settings)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    settings.models().mkdir(parents=True, exist_ok=True)
    if not settings.secret_key and not settings.secret_key_file().exists():
        _write_secret(settings.secret_key_file(), secrets.token_urlsafe(32))
    key_file = settings.key_file()
    database = Database(settings.database())
    try:
        migrate.upgrade(database)
        if not _opens(database, key_file):
            if key_file.exists():
                say(f"The key in {key_file} is not valid for this database; a new key replaces it.")
            with database.write() as session:
                key = auth.create_key(session, auth.ensure_project(session, "default").id, "first key")
            # Written after the commit. Otherwise a crash in between would leave a key that is not valid.
            _write_secret(key_file, key)
    finally:
        database.close()
    return key_file


def serve(settings: Settings, host: str, port: int) -> None:
    """Run both processes until SIGTERM or SIGINT, then stop both and wait for them."""
    environment = {**os.environ, "TUNESMITH_DATA_DIR": str(settings.data_dir.absolute())}
    parts = (["-m", "app", "--host", host, "--port", str(port)], ["-m", "worker"])
    # -P keeps a folder named `worker` or `app` in the user's directory from being taken for ours.
    commands = [[sys.executable, "-P", *part] for part in parts]
    keep_running(commands, environment, grace=settings.stop_grace_seconds + 15)


def serve_apis(host: str, port: int, processes: int) -> None:
    """Run several API processes behind one address until SIGTERM or SIGINT. Raises CannotRun."""
    check_address(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # All of them accept from one socket, so that a process that dies takes no waiting connection with it.
    with socket.create_server((host, port), family=family, backlog=BACKLOG) as listening:
        command = [sys.executable, "-P", "-m", "app", "--listening", str(listening.fileno())]
        keep_running([command] * processes, os.environ, grace=API_GRACE_SECONDS, files=[listening.fileno()])


def _refusal(family: socket.AddressFamily, address: Any) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Same option as the API's socket: a port whose socket was closed a moment ago counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _opens(database: Database, key_file: Path) -> bool:
    if not key_file.exists():
        return False
    with database.read() as session:
        try:
            auth.access_of(session, f"Bearer {key_file.read_text(errors='replace').strip()}")
        except Unauthorized:
            return False
    return True


def _write_secret(path: Path, text: str) -> None:
    building = path.with_name(f"{path.name}.new")
    building.unlink(missing_ok=True)
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    building.replace(path)
