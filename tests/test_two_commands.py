"""Two commands at one place: the second is told who is there, or takes a place of its own; nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from purrception.storage import read_json_lines
from purrception.tokens import TokenDataset
from tests.conftest import run_cli
from tests.test_full_disk import IN_PARTS, WHOLE, check_nothing_is_half_made, check_refusal

HOLDER = """
import contextlib, sys, time
from pathlib import Path
from purrception.storage import one_writer, whole_folder
with contextlib.ExitStack() as stack:
    stack.enter_context(whole_folder(Path("out")))
    for name in sys.argv[1:]:
        stack.enter_context(one_writer(Path(name)))
    print("here", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(tiny_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "RUN")
    return tmp_path


def at_once(folder: Path, *commands: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda words: run_cli(*words, cwd=folder), commands))


@pytest.mark.slow
def test_a_second_command_is_told_who_writes_there(place: Path) -> None:
    evaluate = [*WHOLE["evaluate"], "--out", "report"]
    assert run_cli(*evaluate, cwd=place).returncode == 0
    shutil.rmtree(place / "report")
    held = [*map(str, (place / "RUN/evaluation/samples").iterdir()), "cmp", "tokens/train"]
    commands = {
        **{
            name: [*WHOLE[name], "--out", "out"]
            for name in ("sample", "edit", "export", "sweep", "tokenizer convert")
        },
        "evaluate": evaluate,
        "compare": [*IN_PARTS["compare"], "--out", "cmp"],
        "prepare": [*IN_PARTS["prepare"], "--out", "tokens"],
    }
    with subprocess.Popen([sys.executable, "-c", HOLDER, *held], cwd=place, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"here\n"
        try:
            for done in at_once(place, *commands.values()):  # each waits for a while
                check_refusal(done, f"process {holder.pid} on ")
        finally:
            holder.kill()
    for name in ("sample", "evaluate", "compare", "prepare"):
        done = run_cli(*commands[name], cwd=place)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_samplings_at_once_take_different_numbers(place: Path) -> None:
    for done in at_once(place, *[WHOLE["sample"]] * 3):
        assert done.returncode == 0, done.stderr
    made = sorted((place / "RUN/generated").iterdir())
    assert [path.name for path in made] == ["000", "001", "002"]
    for folder in made:
        images = json.loads((folder / "manifest.json").read_text())["images"]
        assert len(images) == 4
        check_nothing_is_half_made("", folder)


@pytest.mark.slow
def test_of_two_at_one_place_one_is_there_whole(place: Path) -> None:
    ended = at_once(place, *[[*WHOLE["export"], "--out", "out"]] * 2)
    assert sorted(done.returncode for done in ended) == [0, 2]
    check_nothing_is_half_made("", place / "out")
    assert run_cli("sample", "out", "--num", "1", "--steps", "1", "--out", "made", cwd=place).returncode == 0


@pytest.mark.slow
def test_comparisons_and_tokens_of_two_at_once_lose_no_row(place: Path) -> None:
    compare = [*IN_PARTS["compare"], "--points", "2", "--out", "cmp"]
    for words in (compare, [*IN_PARTS["prepare"], "--out", "tokens"]):
        for done in at_once(place, words, words):
            assert done.returncode in (0, 2), done.stderr  # 0: it came when the other was done
            assert "Traceback" not in done.stderr
    rows = read_json_lines(place / "cmp/rows.jsonl")
    assert [(row["entry"], row["seed"], row["step"]) for row in rows] == [("cfm", 0, 1), ("cfm", 0, 2)]
    assert len(json.loads((place / "cmp/report.json").read_text())["rows"]) == 2
    train = TokenDataset(place / "tokens/train")
    assert len(train.rows(np.arange(len(train)))[0]) == len(train)
