"""Clients that send half a request, trickle a body, keep quiet or do not read get no more than their share."""

import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from deployment import Deployment
from hand_worker import publish_model

PATIENCE = {
    "TUNESMITH_HEAD_TIMEOUT_SECONDS": "2",
    "TUNESMITH_BODY_TIMEOUT_SECONDS": "2",
    "TUNESMITH_SEND_TIMEOUT_SECONDS": "3",
}


def connect(service: Deployment, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", int(service.url.rpartition(":")[2])))
    return connection


def is_closed(connection: socket.socket, within: float = 20) -> bool:
    """Whether the service closes it, after whatever it answers."""
    deadline = time.monotonic() + within
    while (left := deadline - time.monotonic()) > 0:
        if select.select([connection], [], [], left)[0]:
            try:
                if not connection.recv(65536):
                    return True
            except ConnectionResetError:
                return True
    return False


STALLED = {
    "an idle socket": b"",
    "half a head": b"GET /v1/jobs HTTP/1.1\r\nhost: x\r\nx-a: b",
    "half a body": b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nauthorization: Bearer %b\r\n\r\n{",
    "half an upload": b"POST /v1/datasets HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\nauthorization: Bearer %b\r\n"
    b"content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n",
}


def test_stalled_requests_are_closed_and_counted(local: Deployment) -> None:
    process = local.start_api(**PATIENCE)
    with ExitStack() as stack:
        connections = {what: stack.enter_context(closing(connect(local))) for what in STALLED}
        for what, connection in connections.items():
            connection.sendall(STALLED[what].replace(b"%b", local.key.encode()))
        assert {what: is_closed(connection) for what, connection in connections.items()} == dict.fromkeys(STALLED, True)

    time.sleep(1.1)  # /metrics is up to a second old.
    figures = httpx.get(f"{local.url}/metrics").text
    counted = dict(re.findall(r'tunesmith_connections_closed_total{reason="(\w+)"} (\d+)', figures))
    assert counted == {"head": "2.0"[:1], "body": "2.0"[:1]}
    assert "closed a connection (head)" in process.log


def test_a_slow_but_steady_body_is_waited_for(local: Deployment) -> None:
    local.start_api(**PATIENCE)

    def body() -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(6):
            time.sleep(0.8)
            yield b"x" * 600
        yield b'"}'

    answer = local.http.post("/v1/jobs", content=body())

    assert answer.status_code == 422, answer.text


def test_many_open_connections_leave_room_for_the_next(local: Deployment) -> None:
    local.start_api(TUNESMITH_CONNECTION_LIMIT="50")
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(closing(connect(local)))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
        time.sleep(1.2)
        # The one that has waited longest makes room.
        assert httpx.get(f"{local.url}/healthz").status_code == 200

        watchers = [stack.enter_context(closing(connect(local))) for _ in range(60)]
        head = f"GET /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {local.key}\r\n\r\n"
        for connection in watchers:
            connection.sendall(head.encode())
        answers = [connection.recv(12) for connection in watchers]
        assert answers.count(b"HTTP/1.1 503") + answers.count(b"HTTP/1.1 200") == len(watchers)
        assert b"HTTP/1.1 503" in answers


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("storage", ["local", "fleet"])
def test_stalled_readers_of_archives_take_little_memory(storage: str, request: pytest.FixtureRequest) -> None:
    service: Deployment = request.getfixturevalue(storage)
    process = service.start_api(TUNESMITH_SEND_TIMEOUT_SECONDS="4")
    job = publish_model(service, {"model.safetensors": 24 * 1024**2})
    head = f"GET /v1/jobs/{job}/archive HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\n\r\n".encode()
    before = resident_bytes(process.popen.pid)
    with ExitStack() as stack:
        readers = [stack.enter_context(closing(connect(service, 4096))) for _ in range(100)]
        for reader in readers:
            reader.sendall(head)
            assert reader.recv(12) == b"HTTP/1.1 200"
        grown = resident_bytes(process.popen.pid) - before
        assert service.http.get("/v1/jobs").status_code == 200
        # Half a megabyte for each, and what the allocator keeps.
        assert grown < 160 * 1024**2, grown
        # Nobody who does not read is waited for.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and _descriptors(process.popen.pid) > 60:
            time.sleep(0.5)
        assert _descriptors(process.popen.pid) <= 60


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
