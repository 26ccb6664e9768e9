"""One POST: to the address that was looked up, with the name in TLS and Host, and never more than was allowed."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from receiver import receiver
from servers import free_port

from app.webhooks.sender import Outcome, Sender


def post(url: str, *, private: bool = True, tls: ssl.SSLContext | None = None) -> Outcome:
    sender = Sender(private_addresses=private, tls=tls)
    return asyncio.run(sender.post(url, {"webhook-id": "x"}, b"{}"))


@contextmanager
def raw_server(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answers the first connection with these bytes, and keeps it open."""
    seen: list[bytes] = []
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            seen.append(connection.recv(65_536))
            connection.sendall(answer)
            over.wait(30)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", seen
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `localhost` alone, and a client's that trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = _certificate(folder)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))


def test_the_certificate_must_be_the_names_though_the_connection_goes_to_the_address(
    trusted: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = trusted
    with receiver(tls=server) as target:
        named, bare = (f"https://{host}:{target.port}/hook" for host in ("localhost", "127.0.0.1"))
        assert post(named, tls=client) == Outcome(204, None)
        assert target.received[0].headers["host"] == f"localhost:{target.port}"
        for outcome in (post(bare, tls=client), post(named)):
            assert outcome.status_code is None
            assert "CERTIFICATE_VERIFY_FAILED" in (outcome.error or "")
    assert len(target.received) == 1


def test_of_several_addresses_the_next_is_tried_when_one_takes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[object] = []

    # No name of every machine has two addresses, and a name server of our own is none that machines ask.
    def two(host: bytes, port: int, **_: object) -> list[tuple[object, ...]]:
        looked_up.append(host)
        return [(0, 0, 0, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    with receiver() as target:
        monkeypatch.setattr("app.webhooks.target.socket.getaddrinfo", two)
        assert post(f"http://several.invalid:{target.port}/hook") == Outcome(204, None)
    # Looked up once: a second look-up could lead elsewhere than the one that was checked.
    assert looked_up == [b"several.invalid"]
    assert target.received[0].headers["host"] == f"several.invalid:{target.port}"


def test_what_is_not_allowed_is_not_connected_to() -> None:
    with receiver() as target:
        for url in (target.url, f"https://localhost:{target.port}/", f"https://127.0.0.1:{target.port}/"):
            outcome = post(url, private=False)
            assert outcome.status_code is None
            assert (outcome.error or "").startswith("the URL ")
    assert target.received == []


def test_nobody_there_and_no_http_are_outcomes() -> None:
    assert "the connection failed" in (post(f"http://127.0.0.1:{free_port()}/").error or "")
    with raw_server(b"SSH-2.0-OpenSSH\r\n\r\n") as (url, _):
        assert post(url) == Outcome(None, "the answer was not HTTP, or was incomplete")


def test_an_endless_answer_is_not_read() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n" + b"x" * 10_000) as (url, seen):
        assert post(url) == Outcome(200, None)
    assert seen[0].startswith(b"POST / HTTP/1.1\r\n")


def test_an_endless_head_is_cut_off() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000) as (url, _):
        assert post(url).status_code is None


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file
