"""What a process cannot do any more once it is in the sandbox, tried by a real one."""

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from worker import landlock
from worker.sandbox import isolation

NEEDS_LANDLOCK = pytest.mark.skipif(
    landlock.abi() < landlock.SCOPE_ABI, reason="this kernel cannot restrict processes so far"
)

TRIES = """
import ctypes, json, os, signal, socket, subprocess, sys, tempfile
from pathlib import Path
from worker.sandbox import Reach, enter

own, secret, model, models, port, parent, hub = sys.argv[1:]
own, secret, model = Path(own), Path(secret), Path(model)
enter(
    Reach([model], [own, own.parent / "tmp"], [Path(models)], own.parent / "tmp", hub == "hub", False, [secret.parent]), "auto"
)

def tried(act):
    try:
        return [True, str(act())]
    except Exception as error:
        return [False, type(error).__name__]

def connect():
    with socket.create_connection(("127.0.0.1", int(port)), 5):
        pass

def status():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return ",".join(lines[name].strip() for name in ("NoNewPrivs", "CapEff", "CapPrm", "CapBnd"))

print(json.dumps({
    "write own": tried(lambda: (own / "a").write_text("x")),
    "rename own": tried(lambda: (own / "a").rename(own / "b")),
    "temporary": tried(lambda: tempfile.NamedTemporaryFile().name.startswith(str(own.parent))),
    "read model": tried(lambda: (model / "config.json").read_text()),
    "list models": tried(lambda: os.listdir(models)),
    "run a program": tried(lambda: subprocess.run(["true"], check=True)),
    "status": tried(status),
    "write model": tried(lambda: (model / "config.json").write_text("x")),
    "read other model": tried(lambda: (Path(models) / "other" / "config.json").read_text()),
    "read secret": tried(secret.read_text),
    "write secret": tried(lambda: secret.write_text("x")),
    "list secrets": tried(lambda: os.listdir(secret.parent)),
    "link secret": tried(lambda: (own / "link").symlink_to(secret)),
    "hard link secret": tried(lambda: os.link(secret, own / "hard")),
    "read shadow": tried(Path("/etc/shadow").read_text),
    "read environment": tried(Path(f"/proc/{parent}/environ").read_text),
    "signal parent": tried(lambda: os.kill(int(parent), 0)),
    "program reads secret": tried(lambda: subprocess.run(["cat", secret], check=True, capture_output=True)),
    "connect": tried(connect),
}))
"""
ALLOWED = ("write own", "rename own", "temporary", "read model", "list models", "run a program", "status")


def tries(folder: Path, hub: str) -> dict[str, list[object]]:
    own, secret, models = folder / "work" / "out", folder / "data" / "secret", folder / "models"
    for made in (own, secret.parent, models / "mine", models / "other"):
        made.mkdir(parents=True, exist_ok=True)
    secret.write_text("secret")
    for name in ("mine", "other"):
        (models / name / "config.json").write_text("{}")
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        arguments = [own, secret, models / "mine", models, server.getsockname()[1], os.getpid(), hub]
        done = subprocess.run(
            [sys.executable, "-P", "-c", TRIES, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "HF_HOME": str(folder / "hub")},
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@NEEDS_LANDLOCK
@pytest.mark.parametrize("hub", ["hub", "no hub"])
def test_it_reaches_its_own_folder_and_inputs_and_nothing_else(tmp_path: Path, hub: str) -> None:
    found = tries(tmp_path, hub)

    expected = {name: name in ALLOWED or (name == "connect" and hub == "hub") for name in found}
    assert {name: result[0] for name, result in found.items()} == expected, found
    assert found["status"][1] == "1,0000000000000000,0000000000000000,0000000000000000" or os.getuid() != 0
    assert (tmp_path / "data" / "secret").read_text() == "secret"


def test_what_is_applied_is_reported() -> None:
    found = isolation("off", 7).to_json()
    assert (found["files"], found["network"], found["landlock_abi"], found["memory_bytes"]) == (False, False, 0, 7)
    assert isolation("auto", None).files == (landlock.abi() > 0)
