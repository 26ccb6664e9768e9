"""The warm interpreter of tests/warm_start.py: imports everything once, forks a process for each request.

`python -P warm_interpreter.py SOCKET OWNER KIND`. It imports what its kind needs and does nothing else with the libraries,
like the worker's own forkserver. A client that goes takes the processes with it that it asked for; the end of OWNER ends it
all.
"""

import atexit
import fcntl
import importlib
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

WARM = "worker.training.warm"
PRELOADED = {
    "main": (
        "app.__main__", "app.cli", "worker.__main__", "worker.celery", "worker.child", "worker.training.__main__", WARM,
    ),
    "tensorflow": (
        "tensorflow", "tf_keras", "transformers", "transformers.modeling_tf_utils",
        *(
            f"transformers.models.{kind}.modeling_tf_{kind}"
            for kind in ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm_roberta")
        ),
    ),
}  # fmt: skip
DEFAULTS = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler, signal.SIGCHLD: signal.SIG_DFL}


def serve(address: str, owner: int, kind: str) -> None:
    """Answer requests until the owner's end."""
    for name in PRELOADED[kind]:
        importlib.import_module(name)
    ends = os.pidfd_open(owner)
    clients: dict[int, socket.socket] = {}
    children: dict[int, set[int]] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address + ".new")
        listener.listen(64)
        Path(address + ".new").rename(address)
        while True:
            ready, _, _ = select.select([listener, ends, *clients], [], [])
            if ends in ready:
                _kill(set().union(*children.values()))
                return
            for each in ready:
                if each is listener:
                    client, _ = listener.accept()
                    clients[client.fileno()], children[client.fileno()] = client, set()
                elif not _answer(clients[each], children[each]):
                    _kill(children.pop(each))
                    clients.pop(each).close()


def _answer(client: socket.socket, children: set[int]) -> bool:
    head, descriptors, _, _ = socket.recv_fds(client, 4, 4)
    if not head:
        return False
    size, payload = int.from_bytes(head, "big"), b""
    while len(payload) < size:
        payload += client.recv(size - len(payload))
    asked = json.loads(payload)
    if "reap" in asked:
        children.discard(asked["reap"])
        _, status = os.waitpid(asked["reap"], 0)
        client.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
        return True
    pid = os.fork()
    if pid == 0:
        _become(asked, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    children.add(pid)
    client.sendall(json.dumps({"pid": pid}).encode())
    return True


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(asked: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Be the process that was asked for, from its first line to its exit code."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if (Path(folder) / "sitecustomize.py").exists():
            runpy.run_path(str(Path(folder) / "sitecustomize.py"))
    if asked["start"][:2] == ["-m", "worker"]:
        _keep_a_forkserver_ready()
    for number, handler in DEFAULTS.items():
        signal.signal(number, handler)
    if "parent" in asked:
        # It asks for itself whether the process that wants it is still there.
        os.getppid = lambda: asked["parent"]
    _end(lambda: _run(*asked["start"]))


def _run(program: str, *arguments: str) -> None:
    sys.argv = [program, *arguments]
    if program != "-m":
        runpy.run_path(program, run_name="__main__")
        return
    module, *sys.argv = arguments[0], *arguments
    # runpy warns of a module that is imported already; the one that runs is a new one, named __main__.
    sys.modules.pop(f"{module}.__main__", None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end(work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        work()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            sys.stderr.write(f"{ending.code}\n")
    except BaseException:  # noqa: BLE001 - as the interpreter does with whatever its program raises
        traceback.print_exc()
    finally:
        threading._shutdown()  # noqa: SLF001 - what the interpreter does at its end, before the handlers of atexit
        atexit._run_exitfuncs()  # noqa: SLF001
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _keep_a_forkserver_ready() -> None:
    """Fork, before any thread is, the process that will be this worker's forkserver once multiprocessing starts one."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        _wait_to_serve(there)
    there.close()
    spawn, waiting = multiprocessing.util.spawnv_passfds, [here]

    def spawned(path: bytes, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        command = arguments[-1]
        if "multiprocessing.forkserver" not in command or not waiting:
            return spawn(path, arguments, descriptors)
        asked = {"environment": dict(os.environ), "command": command, "descriptors": list(descriptors)}
        with waiting.pop() as channel:
            socket.send_fds(channel, [json.dumps(asked).encode()], list(descriptors))
        return pid

    multiprocessing.util.spawnv_passfds = spawned


def _wait_to_serve(channel: socket.socket) -> NoReturn:
    payload, received, _, _ = socket.recv_fds(channel, 1 << 20, 8)
    if not payload:
        os._exit(0)
    asked = json.loads(payload)
    os.environ.clear()
    os.environ.update(asked["environment"])
    # The command names descriptors by their numbers in the worker.
    high = [_above(descriptor, 1000) for descriptor in received]
    channel.close()
    for descriptor, number in zip(high, asked["descriptors"], strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _end(lambda: exec(asked["command"], {"__name__": "__main__"}))  # noqa: S102 - as `python -c` does


def _above(descriptor: int, least: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, least)
    os.close(descriptor)
    return moved


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
