"""A python that is forked with its packages imported does what an ordinary one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forked import python

TELL = """
import os, sys
print(__name__, sys.argv, os.getcwd(), sys.path[0], os.environ.get("ASKED"), "torch" in sys.modules)
print(sys.stdin.read(), file=sys.stderr)
"""


def run(words: list[str], folder: Path, program: str | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [program or python(), *words],
        cwd=folder,
        env=os.environ | {"ASKED": "ä"},
        input="entered",
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [["-c", TELL, "1 2", ""], ["-u", "script.py", "-m"], ["-m", "script"]],
    ids=["text", "script", "module"],
)
def test_it_starts_as_an_ordinary_one(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "script.py").write_text(TELL, encoding="utf-8")
    code, out, error = run(words, tmp_path)
    assert (code, error) == (0, "entered\n")
    assert out.endswith("True\n")
    assert (code, out.replace("True\n", "False\n"), error) == run(words, tmp_path, sys.executable)


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit(3)",
        "sys.exit()",
        "sys.exit('said')",
        "raise ValueError(1)",
        "os.kill(os.getpid(), 9)",
        "os.abort()",
        "raise KeyboardInterrupt",
        "import atexit; atexit.register(print, 'late')",
        "import threading; threading.Thread(target=lambda: (time.sleep(0.1), print('later'))).start()",
    ],
)
def test_it_ends_as_an_ordinary_one(tmp_path: Path, end: str) -> None:
    (tmp_path / "script.py").write_text(f"import os, sys, time\n{end}\n", encoding="utf-8")
    forked, ordinary = (run(["script.py"], tmp_path, program) for program in (None, sys.executable))
    assert forked[:2] == ordinary[:2]
    assert forked[2].splitlines()[-1:] == ordinary[2].splitlines()[-1:]


def test_an_environment_that_imports_read_is_given_an_ordinary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert run(["-c", TELL], tmp_path)[1].endswith("False\n")


@pytest.mark.parametrize(("number", "last"), [(signal.SIGTERM, "asked"), (signal.SIGKILL, "here")])
def test_signals_reach_it(tmp_path: Path, number: signal.Signals, last: str) -> None:
    program = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"asked"), sys.exit(5)))
print(os.getpid(), "here", flush=True)
for _ in range(600):
    time.sleep(0.1)  # a signal that comes just before a sleep is handled after it
"""
    process = subprocess.Popen([python(), "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(number)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == (5 if number == signal.SIGTERM else -number)
    assert (first + rest).split()[-1] == last
    end = time.monotonic() + 30
    while Path(f"/proc/{first.split()[0]}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not Path(f"/proc/{first.split()[0]}").exists()


def test_what_it_starts_is_forked_as_well(tmp_path: Path) -> None:
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TELL!r}])"
    assert run(["-c", program], tmp_path)[1].endswith("True\n")
