import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import auth
from app.db import Database
from app.explain import CannotRun
from app.settings import Settings
from app.up import check_address, set_up


@pytest.fixture
def said(data_dir: Path) -> list[str]:
    return []


def opens(key_file: Path) -> str:
    """The project that the key in the file opens."""
    database = Database(Settings().database())
    try:
        with database.read() as session:
            return auth.access_of(session, f"Bearer {key_file.read_text().strip()}").project_id
    finally:
        database.close()


def test_a_taken_port_ends_up_at_once(tunesmith: Callable[..., Any], data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = tunesmith("up", "--port", str(port))
    assert ended.code == 2
    assert f"port {port} of 127.0.0.1 is taken" in ended.err
    assert "Tunesmith on" not in ended.out
    assert not data_dir.exists()


def test_a_port_that_is_taken_for_all_addresses_is_taken_for_each() -> None:
    with socket.create_server(("", 0)) as server, pytest.raises(CannotRun, match="is taken"):
        check_address("localhost", server.getsockname()[1])


def test_a_free_port_is_free_again_after_the_check() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)
    check_address("localhost", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_of_another_machine_is_reported(host: str) -> None:
    with pytest.raises(CannotRun, match=host):
        check_address(host, 8000)


def test_the_first_key_opens_the_database_and_stays(data_dir: Path, said: list[str]) -> None:
    key_file = set_up(Settings(), said.append)
    first = key_file.read_text()
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert opens(key_file).startswith("proj_")
    assert set_up(Settings(), said.append).read_text() == first
    assert said == []
    assert [path.name for path in data_dir.glob("api-key*")] == ["api-key"]


def test_a_key_of_a_database_that_is_gone_is_replaced(data_dir: Path, said: list[str]) -> None:
    first = set_up(Settings(), said.append).read_text()
    for path in data_dir.glob("tunesmith.db*"):
        path.unlink()
    key_file = set_up(Settings(), said.append)
    assert key_file.read_text() != first
    assert opens(key_file).startswith("proj_")
    assert len(said) == 1
    assert str(key_file) in said[0]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe"])
def test_a_key_file_without_a_key_is_replaced(data_dir: Path, said: list[str], content: bytes) -> None:
    data_dir.mkdir()
    (data_dir / "api-key").write_bytes(content)
    (data_dir / "api-key").chmod(0o644)
    key_file = set_up(Settings(), said.append)
    assert opens(key_file).startswith("proj_")
    assert key_file.stat().st_mode & 0o777 == 0o600
