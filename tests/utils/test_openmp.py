"""How long threads of GNU OpenMP spin: bounded before PyTorch is loaded, and a person's own settings stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from purrception import SPINS
from tests.conftest import run_cli, run_torchrun

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PyTorch brings GNU OpenMP on Linux")


def spins(stderr: str) -> list[int]:
    """What each copy of the library says that it took, at the moment it was loaded."""
    return [int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", stderr)]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of someone who has set nothing, with a library that tells its settings."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("OMP_NUM_THREADS", "2", SPINS),
        ("GOMP_SPINCOUNT", "77", 77),
        ("OMP_WAIT_POLICY", "passive", 0),
        ("OMP_WAIT_POLICY", "active", 30_000_000_000),
        ("KMP_BLOCKTIME", "1", 300_000),
    ],
)
def test_spinning_is_bounded_unless_told_otherwise(
    own: pytest.MonkeyPatch, name: str, value: str, expected: int
) -> None:
    """The library reads its settings when it is loaded, whoever loads it: torch itself would take seconds."""
    own.setenv(name, value)
    (library,) = (Path(torch.__file__).parent / "lib").glob("libgomp*")
    code = f"import ctypes, purrception; ctypes.CDLL({str(library)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(spins(result.stderr)) == {expected}


def test_the_command_line_bounds_spinning(own: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = run_cli("tokenizer", "convert", "nowhere", cwd=tmp_path, fresh=True)
    assert "purrception: no tokenizer at nowhere" in result.stderr
    assert set(spins(result.stderr)) == {SPINS}


def test_a_torch_that_was_there_before_is_left_alone(own: pytest.MonkeyPatch) -> None:
    code = "import torch, purrception"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(spins(result.stderr)) == {300_000}


def test_processes_of_torchrun_are_bounded(own: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text("import purrception, torch", encoding="utf-8")
    result = run_torchrun("both.py", cwd=tmp_path)
    assert spins(result.stderr).count(SPINS) >= 2
