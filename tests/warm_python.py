"""An interpreter of another environment that starts fast, because a warm interpreter has already done the imports.

`tests/warm_start.py` copies this program beside the socket of the warm interpreter, with the real interpreter on its first
line. A program in a folder (`python -P -s FOLDER`) runs in a fork of the warm interpreter; the real interpreter runs
everything else. If this process is killed, the fork is killed too. If the fork ends, this process ends with its exit code.
"""

import json
import os
import select
import signal
import socket
import sys


def main() -> int:
    """Be `python -P -s FOLDER ARGUMENT…`, in a fork of the warm interpreter."""
    options, arguments = sys.argv[1:3], sys.argv[3:]
    if options != ["-P", "-s"] or not os.path.isdir(arguments[0]):  # noqa: PTH112 - pathlib takes as long to import as all else
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])  # noqa: S606
    for number in (signal.SIGINT, signal.SIGTERM):
        # A signal to the process group does not reach the fork. The fork decides how this process ends.
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as warm:
        warm.connect(os.path.join(os.path.dirname(__file__), "socket"))  # noqa: PTH118, PTH120
        asked = {"start": arguments, "environment": dict(os.environ), "folder": os.getcwd(), "parent": os.getppid()}  # noqa: PTH109
        payload = json.dumps(asked).encode()
        socket.send_fds(warm, [len(payload).to_bytes(4, "big")], [0, 1, 2])
        warm.sendall(payload)
        pid = json.loads(warm.recv(1000))["pid"]
        for number in (0, 1):
            # Only the fork may hold the pipes, so that the other side sees when the fork ends.
            os.close(number)
        ended = os.pidfd_open(pid)
        select.select([ended], [], [])
        payload = json.dumps({"reap": pid}).encode()
        warm.sendall(len(payload).to_bytes(4, "big") + payload)
        return json.loads(warm.recv(1000))["code"]


if __name__ == "__main__":
    code = main()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
