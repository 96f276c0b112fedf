"""What a test starts in place of an interpreter; see :mod:`tests.forked`. It imports next to nothing."""

import json
import os
import resource
import select
import signal
import socket
import sys

LIMITS = ("RLIMIT_FSIZE", "RLIMIT_NOFILE")
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main(address: str, *arguments: str) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until it is known where to
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    asked = {
        "arguments": arguments,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
    }
    socket.send_fds(connection, [b"\n"], [0, 1, 2])
    connection.sendall(json.dumps(asked).encode() + b"\n")
    answers = connection.makefile()
    answer = answers.readline()
    if not answer.strip().isdigit():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        os.execv(sys.executable, [sys.executable, *arguments])
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(int(answer), number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    while not select.select([connection], [], [], 0.1)[0]:
        pass  # a signal that comes just before a wait is passed on after it
    code = int(answers.readline())
    if code >= 0:
        return code
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
