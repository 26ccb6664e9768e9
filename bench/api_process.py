"""API processes for benchmarks, and peers of theirs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
API = (sys.executable, "-m", "app", "--port")


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    url: str
    pid: int

    @property
    def memory_bytes(self) -> int:
        """What the process has in memory."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port of this machine that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command: Sequence[str], settings: Mapping[str, str], *, path: str = "/healthz") -> Iterator[Served]:
    """Run a server whose command ends with its port, from the moment it answers. Raises SystemExit if it never does."""
    port = free_port()
    server = subprocess.Popen(
        [*command, str(port)], env={**os.environ, **settings}, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            time.sleep(0.1)
            try:
                httpx.get(f"{url}{path}", timeout=2)
                break
            except httpx.TransportError:
                continue
        else:
            raise SystemExit(f"{command[0]} did not start")
        yield Served(url, server.pid)
    finally:
        server.terminate()
        server.wait()
