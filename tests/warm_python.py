"""A Python of another environment whose imports were done once: hands what it is asked to run to a warm interpreter.

`tests/warm_start.py` writes this program, with the interpreter of that environment on its first line, beside the socket of
the warm interpreter that runs there. Whatever is no program in a folder is run by that interpreter itself. The process
that does the work ends with this one, and this one ends with its exit code.
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
        # Where a group is signaled, the warm process would not hear it; what does the work says how it ends.
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as warm:
        warm.connect(os.path.join(os.path.dirname(__file__), "socket"))  # noqa: PTH118, PTH120
        asked = {"start": arguments, "environment": dict(os.environ), "folder": os.getcwd(), "parent": os.getppid()}  # noqa: PTH109
        payload = json.dumps(asked).encode()
        socket.send_fds(warm, [len(payload).to_bytes(4, "big")], [0, 1, 2])
        warm.sendall(payload)
        pid = json.loads(warm.recv(1000))["pid"]
        for number in (0, 1):
            # Whoever reads what it writes is to see the end of the process that does the work.
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
