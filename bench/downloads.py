"""Megabytes per second of a download, with one client and with several, against nginx with the same file in the same run.

nginx must be installed (Debian: nginx-light). The file is in the page cache, so the disk limits neither.
"""

import hashlib
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from api_process import API, Served, serving

from app import auth, migrate
from app.db import Database
from app.identifiers import new_id
from app.jobs.tables import Artifact, Job

SIZE = 1 << 30
CLIENTS = (1, 8)
ROUNDS = 3
RECEIVE = 1 << 20
NGINX = """
user root; daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
  scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def main() -> None:
    """Print the rate of the file and of the tar, ours and nginx, and the ratio."""
    if shutil.which("nginx") is None:
        raise SystemExit("nginx is not installed")
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as name:
        folder = Path(name)
        job, key = _publish(folder)
        settings = {"TUNESMITH_DATA_DIR": str(folder)}
        nginx = ["bash", "-c", _nginx(folder), "nginx"]
        with serving(API, settings) as ours, serving(nginx, {}, path="/") as peer:
            for clients in CLIENTS:
                mine, tar, bare = 0.0, 0.0, 0.0
                for _ in range(ROUNDS):
                    mine = max(mine, _rate(ours, f"/v1/jobs/{job}/artifacts/model.safetensors", key, clients))
                    tar = max(tar, _rate(ours, f"/v1/jobs/{job}/archive", key, clients))
                    bare = max(bare, _rate(peer, "/model.safetensors", key, clients))
                print(
                    f"{clients} clients: file {mine:6.0f} MB/s, tar {tar:6.0f} MB/s, nginx {bare:6.0f} MB/s; "
                    f"file / nginx {mine / bare:.2f}, tar / nginx {tar / bare:.2f}",
                    flush=True,
                )


def _nginx(folder: Path) -> str:
    stored = next((folder / "storage").rglob("model.safetensors")).parent
    conf = NGINX.format(folder=folder, root=stored, port="PORT")
    (folder / "nginx.conf").write_text(conf)
    return f"sed -i s/PORT/$1/ {folder}/nginx.conf; exec nginx -c {folder}/nginx.conf"


def _publish(folder: Path) -> tuple[str, str]:
    database = Database(f"sqlite:///{folder / 'tunesmith.db'}")
    migrate.upgrade(database)
    job_id, artifact_id = new_id("job"), new_id("art")
    prefix = f"jobs/{job_id}/a1/model"
    file = folder / "storage" / prefix / "model.safetensors"
    file.parent.mkdir(parents=True)
    block = os.urandom(1 << 20)
    with file.open("wb") as target:
        for _ in range(SIZE >> 20):
            target.write(block)
    digest = hashlib.sha256(block * (SIZE >> 20)).hexdigest()
    with database.write() as session:
        project = auth.ensure_project(session, "bench").id
        key = auth.create_key(session, project, "bench")
        session.add(
            Job(
                id=job_id, project_id=project, task="t", user_metadata={}, priority=0, queue="cpu", spec={}, timeout_seconds=60,
                body_sha256="0" * 64, status="succeeded", attempt=1, artifact_id=artifact_id,
            )
        )  # fmt: skip
        session.flush()
        session.add(
            Artifact(
                id=artifact_id, job_id=job_id, attempt=1, kind="model", step=1, epoch=1.0, is_best=True, metrics={},
                prefix=prefix, manifest_sha256="0" * 64,
                files=[{"path": "model.safetensors", "size": SIZE, "sha256": digest}],
            )
        )  # fmt: skip
    database.close()
    return job_id, key


def _rate(server: Served, path: str, key: str, clients: int) -> float:
    began = time.perf_counter()
    received: list[int] = []
    threads = [threading.Thread(target=_download, args=(server.url, path, key, received)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if len(received) < clients or min(received) < SIZE:
        raise SystemExit(f"a download of {path} broke off: {received}")
    return sum(received) / seconds / 1e6


def _download(url: str, path: str, key: str, received: list[int]) -> None:
    address = urlsplit(url)
    head = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
    buffer = bytearray(RECEIVE)
    total = 0
    with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
        connection.sendall(head.encode())
        while size := connection.recv_into(buffer):
            total += size
    received.append(total)


if __name__ == "__main__":
    sys.exit(main())
