"""A process that is stuck or dead is named by the others, soon."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import run_torchrun
from tests.forked import python

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import torch
from purrception.utils import distributed
from purrception.utils.progress import ProgressBar

distributed.SECONDS_BETWEEN_LINES, distributed.ROLL_CALL_SECONDS = 1.0, 3.0
kind = sys.argv[1]
try:
    with distributed.joined(torch.device("cpu"), 0.05):
        assert distributed.gather(distributed.rank()) == [0, 1]
        if kind == "slow" and distributed.rank() == 1:
            with ProgressBar("work", 30) as bar:
                for step in range(30):
                    time.sleep(0.2)
                    bar.update(step)
        if kind in ("stopped", "stopped-in-a-sum") and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        if kind in ("dead", "dead-in-a-sum") and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind.endswith("sum"):
            distributed.average_([torch.ones(3)])
        distributed.wait()
        print("all here", flush=True)
except distributed.MissingProcessError as error:
    print(f"missing: {error}", flush=True)
"""


KINDS = ("stopped", "stopped-in-a-sum", "dead", "dead-in-a-sum", "slow")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What the two processes of each kind print. All kinds wait at the same time."""
    folder = tmp_path_factory.mktemp("stuck")
    with ThreadPoolExecutor(len(KINDS)) as pool:
        return dict(zip(KINDS, pool.map(lambda kind: run(kind, folder), KINDS), strict=True))


def run(kind: str, folder: Path) -> tuple[str, str]:
    """What two processes print; the second may be stopped, and is killed in the end."""
    port = 20_000 + (os.getpid() * len(KINDS) + KINDS.index(kind)) % 20_000
    found = []
    for rank in (0, 1):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        output = (folder / f"{kind}-{rank}.log").open("w")
        found.append(
            subprocess.Popen(
                [python(), "-c", PROGRAM, kind], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        )
    try:
        found[0].wait(120)
        if kind == "slow":
            found[1].wait(120)
    finally:
        for process in found:
            process.send_signal(signal.SIGKILL)
            process.wait()
    first, second = ((folder / f"{kind}-{rank}.log").read_text() for rank in (0, 1))
    return first, second


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_process_that_is_stopped_or_dead_is_named(kind: str, told: dict[str, tuple[str, str]]) -> None:
    first, _ = told[kind]
    assert "missing: process 1 of 2 " in first
    assert "all here" not in first


TWICE = """
import time
import torch
from purrception.utils import distributed

for turn in range(2):
    with distributed.joined(torch.device("cpu")):
        began = time.monotonic()
        if turn and distributed.rank() == 1:
            time.sleep(3)
        distributed.wait()
        if turn and distributed.rank() == 0:
            print("waited", time.monotonic() - began > 1, flush=True)
"""


def test_processes_that_join_again_wait_for_each_other_anew(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(TWICE, encoding="utf-8")
    done = run_torchrun("twice.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "waited True" in done.stdout


def test_a_process_that_shows_progress_is_waited_for(told: dict[str, tuple[str, str]]) -> None:
    first, second = told["slow"]
    assert "all here" in first
    assert "all here" in second
    assert "waiting for process 1 of 2 since 0 min" in first
