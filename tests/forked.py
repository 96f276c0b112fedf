"""The command line in a process that is forked with its packages imported.

To import PyTorch and diffusers takes a process some ten seconds of processor time, and the tests start a hundred.
One server for each of pytest's workers imports them once, runs nothing, and forks itself for every command.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    [__name__, "matplotlib.pyplot", *(f"purrception.{room}" for room in ("cli", "comparison", "diagnose", "plan"))]
)
_environment: dict[str, str] = {}
"""That of the server, which its children inherit."""


def remember_environment() -> None:
    """From now on commands are forked wherever the environment is as it is now."""
    _environment.update(_present())


def restore_environment() -> None:
    """Undo what was done to it since, by whomever."""
    present = _present()
    for name in present.keys() | _environment.keys():
        if name not in _environment:
            del os.environ[name]
        elif present.get(name) != _environment[name]:
            os.environ[name] = _environment[name]


def can_fork() -> bool:
    """Whether a child of the server would find the present environment: some of it is read by imports alone."""
    return _present() == _environment


def _present() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def run_forked(
    arguments: Sequence[str], cwd: Path, timeout: float, largest: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    """``purrception …`` in ``cwd``, as :func:`subprocess.run` would give it; no file beyond ``largest`` bytes.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        out, error = Path(temporary) / "stdout", Path(temporary) / "stderr"
        process = start_forked(arguments, cwd, out, error, largest)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout)
        texts = [file.read_text() if file.exists() else "" for file in (out, error)]
        return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


def start_forked(
    arguments: Sequence[str], cwd: Path, out: Path, error: Path, largest: int = resource.RLIM_INFINITY
) -> BaseProcess:
    """``purrception …`` in ``cwd``, under way, with its output in files; it writes no file beyond ``largest``."""
    process = _server.Process(target=_main, args=(arguments, cwd, out, error, largest))
    process.start()
    return process


def _main(arguments: Sequence[str], cwd: Path, out: Path, error: Path, largest: int) -> None:
    """What the child does: the command with its output in files."""
    from purrception.cli import main

    for stream, file in ((sys.stdout, out), (sys.stderr, error)):
        with file.open("w") as opened:
            os.dup2(opened.fileno(), stream.fileno())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    os.chdir(cwd)
    sys.argv = ["purrception", *arguments]
    sys.exit(main())
