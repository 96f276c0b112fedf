"""A ``python`` whose packages are imported before it starts.

To import PyTorch and diffusers takes a process some ten seconds of processor time, and the tests start hundreds.
One server for all of pytest's workers imports them once, and forks itself for every command. What a test starts
is a client that hands over its arguments, folder, environment and open files, passes signals on, and ends as the
fork ends. Whoever asks for an environment that imports would have read gets an ordinary interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import json
import os
import random
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

CLIENT = Path(__file__).with_name("forked_client.py")
IMPORTED = (
    "purrception.bench.run",
    "purrception.cli",
    "purrception.comparison.suite",
    "purrception.comparison.sweep",
    "purrception.diagnose.run",
    "purrception.evaluation.run",
    "purrception.evaluation.tokenizer.report",
    "purrception.experiment.dry_run",
    "purrception.experiment.export",
    "purrception.experiment.plan.cost",
    "purrception.experiment.prepare",
    "purrception.experiment.tokenizer_run",
    "purrception.generation.public_checkpoints",
    "purrception.generation.saving",
    "purrception.studio.server",
    "diffusers.models.autoencoders.vq_model",
    "gradio",
    "matplotlib.pyplot",
    "sklearn.datasets",
    "torch.distributed.run",
    "torch.utils.tensorboard",
    "tyro",
)
READ_BY_IMPORTS = (
    "CUDA",
    "DIFFUSERS",
    "GOMP",
    "HF_",
    "HOME",
    "HUGGINGFACE",
    "KMP",
    "LANG",
    "LC_",
    "LD_",
    "MKL",
    "MPL",
    "OMP",
    "OPENBLAS",
    "PYTHON",
    "TRITON",
    "TZ",
    "XDG",
)
"""How variables begin that imports look at …"""
READ_LATER = {"PYTHON", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHON_EXEC"}
"""… but for these."""
ENVIRONMENT = dict(os.environ)
"""In a server, as it was before the imports, which add to it; in a test, the one that its server is given."""


@cache
def python() -> str:
    """The path of a program that takes a module, a program text or a script, as ``python`` does."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    session = os.getppid() if run else os.getpid()  # the workers are children of the process that was started
    folder = Path(tempfile.gettempdir()) / f"forked-{run or session}"
    folder.mkdir(exist_ok=True)
    address, program = folder / "socket", folder / "python"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            program.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" -IS "{CLIENT}" "{address}" "$@"\n', encoding="utf-8"
            )
            program.chmod(0o755)
            server = subprocess.Popen(
                [sys.executable, "-m", __name__, str(address), str(session)],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
            )
            while not address.exists():
                assert server.poll() is None, "the server of forked processes did not start"
                time.sleep(0.01)
    return str(program)


def serve(address: str, session: int) -> None:
    """Fork for whoever calls, until the process that started the tests is gone."""
    gc.disable()  # what is imported stays
    watch_look_ups()
    folder = Path(address).parent
    tests = os.pidfd_open(session)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen()
    os.rename(f"{address}.new", address)
    from purrception.studio.server import set_environment

    set_environment(folder)  # before gradio is imported
    for module in filter(find_spec, IMPORTED):  # some are not installed everywhere
        import_module(module)
    del sys.modules["torch.distributed.run"]  # or it warns that it is to run a second time
    for finalizer in weakref.finalize._registry.values():  # type: ignore[attr-defined]
        finalizer.atexit = False  # what the imports made ends with the server
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who look after a command
    while True:
        ready, _, _ = select.select([listener, tests], [], [])
        if tests in ready:
            shutil.rmtree(folder, ignore_errors=True)
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _look_after(connection, address)
        connection.close()


def watch_look_ups() -> None:
    """Where a file ``LOOKUPS`` is named, a name that is not of the loopback is written there, and not resolved."""
    resolve = socket.getaddrinfo

    def resolve_or_refuse(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if "LOOKUPS" not in os.environ or name in (None, "", "127.0.0.1", "localhost", "::1", "0.0.0.0"):
            return resolve(host, *rest, **options)
        with Path(os.environ["LOOKUPS"]).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        raise socket.gaierror(f"no look-ups here: {name}")

    def resolve_one(host: str) -> str:
        return str(resolve_or_refuse(host, None, socket.AF_INET)[0][4][0])

    socket.getaddrinfo = resolve_or_refuse
    socket.gethostbyname = resolve_one


def _look_after(connection: socket.socket, address: str) -> NoReturn:
    """Run what one client asks for, and tell it the end; a client that is killed takes its command with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, descriptors, *_ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(connection.makefile(encoding="utf-8").readline())
    added = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    asked["environment"] = added | asked["environment"]
    if _seen_by_imports(asked["environment"]) != _seen_by_imports(dict(os.environ)):
        connection.sendall(b"not here\n")
        os._exit(0)
    if (child := os.fork()) == 0:
        connection.close()
        sys.executable = str(Path(address).with_name("python"))  # so that what it starts is forked, too
        _become(asked, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    with contextlib.suppress(OSError):  # the client is gone
        connection.sendall(b"%d\n" % child)
    ready, _, _ = select.select([os.pidfd_open(child), connection], [], [])
    if connection in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _seen_by_imports(environment: dict[str, str]) -> tuple[dict[str, str], set[str]]:
    seen = {name: value for name, value in environment.items() if name.startswith(READ_BY_IMPORTS)}
    places = {os.path.realpath(place) for place in seen.get("PYTHONPATH", "").split(os.pathsep) if place}
    return {name: value for name, value in seen.items() if name not in READ_LATER}, places


def _become(asked: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Be what an interpreter would be with these arguments, from its start to its end."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    arguments = asked["arguments"]
    at_once = arguments[0] == "-u" or "PYTHONUNBUFFERED" in asked["environment"]
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stdout.reconfigure(write_through=at_once)
    sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)
    sys.stderr.reconfigure(line_buffering=True)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    for name, limits in asked["limits"].items():
        resource.setrlimit(getattr(resource, name), limits)
    tempfile.tempdir = None
    random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server started in the background ignores it
    code = 0
    try:
        _run(*arguments[arguments[0] == "-u" :])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _run(kind: str, *words: str) -> None:
    if kind == "-m":
        sys.path[0], sys.argv = os.getcwd(), [*words]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[0], sys.argv = "", ["-c", *words[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path[0], sys.argv = os.path.dirname(os.path.abspath(kind)), [kind, *words]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
