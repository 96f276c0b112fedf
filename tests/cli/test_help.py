"""Help: at once, of every option, and silent where nobody reads it."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import purrception
from purrception.cli import EVERYWHERE, main
from purrception.cli.options import options_of
from purrception.cli.parsing import negated, parse, spelt_out
from purrception.cli.sample import SampleOptions, in_turn
from purrception.cli.suggestions import by_meaning
from purrception.cli.train import TrainOptions
from purrception.cli.verbs import GROUPS, VERBS
from purrception.evaluation.extractors import EXTRACTORS
from purrception.evaluation.settings import FEATURES
from purrception.experiment.recipes import RECIPES, get_recipe
from purrception.flow.last_step import LAST_STEPS
from purrception.flow.limits import LAST_STEP_NAMES, SOLVER_NAMES
from purrception.flow.solvers import SOLVERS
from purrception.models.head import HEADS, CategoricalHead
from purrception.models.settings import CATEGORICAL_HEADS, HEAD_KINDS
from purrception.tokenizers.settings import NORMALISATIONS
from purrception.tokenizers.vq import ARCHITECTURES
from purrception.utils.errors import InputError
from tests.cli.test_cli import fails_with_one_line
from tests.conftest import run_cli

HEAVY = {"torch", "diffusers", "gradio", "sklearn", "matplotlib", "numpy", "pydantic", "yaml", "rich"}
WITHOUT_THEM = f"""
import contextlib, io, sys
from purrception.cli import main
for command in {{commands!r}}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = main(command)
    heavy = set({sorted(HEAVY)!r}) & set(sys.modules)
    if heavy or status != {{status}}:
        sys.exit(f"{{{{command}}}} ended with {{{{status}}}} and loaded {{{{heavy}}}}")
"""


def run_light(commands: list[list[str]], status: int, cwd: Path) -> None:
    """Run commands in one fresh interpreter, none of which may import anything heavy."""
    program = WITHOUT_THEM.format(commands=commands, status=status)
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def plain(shown: str) -> str:
    """Help as one line, without the frames around its groups."""
    return " ".join(re.sub(r"[│╭╮╰╯─|+]|-{3,}", " ", shown).split())


def test_no_help_imports_anything_heavy(tmp_path: Path) -> None:
    commands = [[], ["--help"], ["help"], ["-V"], *([group, "--help"] for group in GROUPS)]
    commands += [[*name.split(), "--help"] for name in VERBS]
    commands += [["train", recipe, "--help"] for recipe in RECIPES]
    commands += [["tokenizer", "train", "photos", "--help"], ["compare", "digits", "--help"]]
    commands += [["diagnose", "--suite", "--help"], ["completion", "bash"], ["completion", "words", "train", "di"]]
    run_light(commands, 0, tmp_path)


def test_no_mistake_in_a_command_imports_anything_heavy(tmp_path: Path) -> None:
    targets = [["sample"], ["edit", "vary"], ["studio"], ["export"], ["sweep"], ["diagnose"], ["evaluate"]]
    targets += [["train"], ["train", "--resume"], ["compare"], ["plan"], ["tokenizer", "train"], ["prepare"]]
    run_light([[*words, "nowhere"] for words in targets], 2, tmp_path)
    run_light([[*name.split(), "x", "y", "--stepz", "3"] for name in ("sample", "bench", "studio")], 2, tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    run_light([["train", "--resume", "run", "--steps", "3"]], 2, tmp_path)
    run_light([["train", "digits", "--steps", "3"], ["smaple"], ["train", "digits", "--resume"]], 2, tmp_path)


def test_names_that_help_knows_are_those_of_what_is_built() -> None:
    assert set(SOLVER_NAMES) == SOLVERS.keys()
    assert set(LAST_STEP_NAMES) == LAST_STEPS.keys()
    assert set(FEATURES) == EXTRACTORS.keys()
    assert set(NORMALISATIONS) == ARCHITECTURES.keys()
    assert set(HEAD_KINDS) == HEADS.keys()
    assert {name for name, kind in HEADS.items() if issubclass(kind, CategoricalHead)} == set(CATEGORICAL_HEADS)


@pytest.mark.parametrize("name", VERBS)
def test_help_lists_every_option_with_what_it_defaults_to(capsys: pytest.CaptureFixture[str], name: str) -> None:
    shown = help_of(capsys, *name.split())
    assert f"usage: purrception {name} {VERBS[name].usage}".rstrip() in shown.splitlines()[0]
    text = plain(shown).partition("show this help message and exit")[2]
    options = list(options_of(VERBS[name].options))
    assert len({option.name for option in options}) == len(options)
    for option in options:
        spelt = f"{option.name}, {negated(option.name)}" if option.kind is bool else option.name
        (entry,) = re.findall(rf" {re.escape(spelt)} .*?(?= --[a-z][\w.-]*\w(?:,| \[?[A-Z{{])|$)", text)[:1]
        assert re.search("default|required|empty", entry, re.IGNORECASE), entry
    for nothing in ("(default: )", "(default: None)", "(default: '')", "{None}", "`", ":func:"):
        assert nothing not in text


def test_help_gives_the_values_of_a_recipe_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    any_recipe, photos = help_of(capsys, "train"), help_of(capsys, "train", "photos")
    for shown, steps in ((any_recipe, "the recipe's"), (photos, "1200")):
        text = plain(shown)
        assert f"--training.steps INT Number of optimiser steps of the whole run. (default: {steps})" in text
    assert "recipe options" in photos
    assert "--dry-run" in any_recipe
    assert "(default: the run's own)" in help_of(capsys, "sample")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["completion", "bash"], ["sample", "nowhere"]])
def test_a_pipe_that_nobody_reads_ends_a_command_silently(tmp_path: Path, words: list[str]) -> None:
    def run(**streams: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "purrception", *words]
        return subprocess.run(command, cwd=tmp_path, text=True, check=False, **streams)  # type: ignore[call-overload]

    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(stdout=writer, stderr=subprocess.PIPE)
        if words == ["sample", "nowhere"]:
            assert done.returncode == 2
        else:
            assert (done.returncode, done.stderr) == (141, "")
        assert run(stdout=writer, stderr=writer).returncode == 141
    finally:
        os.close(writer)


def test_a_connection_that_breaks_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*arguments: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("purrception.cli.run_verb", breaks)
    assert main(["export", "runs/digits"]) == 2
    assert capsys.readouterr().err == "purrception: Broken pipe\n"


def test_the_versions_of_what_matters_are_told_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "--verbose"]) == 0
    own, *others = capsys.readouterr().out.splitlines()
    assert own == f"purrception {purrception.__version__}"
    assert {line.split()[0] for line in others} >= {"python", "torch", "diffusers", "numpy"}


def test_what_is_asked_of_every_command(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-V"]) == 0
    assert main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert main(["help", "edit", "vary"]) == 0
    assert capsys.readouterr().out == help_of(capsys, "edit", "vary")
    assert main(["sample", "nowhere", "--verbose"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("purrception: no run at nowhere")
    asked = ["sample", tiny_run, "--num", "2", "--steps", "2", "--out"]
    loud, silent = run_cli(*asked, "a", cwd=tmp_path), run_cli("--quiet", *asked, "b", cwd=tmp_path)
    assert "sampling" in loud.stderr
    assert (silent.returncode, silent.stderr) == (0, "")
    assert silent.stdout.count("\n") == 1
    assert set(EVERYWHERE) == {"--quiet", "--verbose"}


def test_switches_stand_bare_or_with_a_truth_value() -> None:
    ways = ["--data.flips", "--data.flips=True"], ["--no-data.flips", "--data.no-flips", "--data.flips=False"]
    for given, value in zip(ways, (True, False), strict=True):
        for way in given:
            options = parse(TrainOptions, VERBS["train"], [way], TrainOptions(recipe=get_recipe("folder")))
            assert options.recipe.data.flips is value
    assert spelt_out(SampleOptions, ["--record", "False", "--no-compile", "--seed", "3"]) == [
        *("--no-record", "--no-compile", "--seed", "3")
    ]
    with pytest.raises(InputError, match=r"--record is a switch: .* given 'maybe'"):
        spelt_out(SampleOptions, ["--record=maybe"])


@pytest.mark.parametrize("objectives", [["purrception,cfm"], ["purrception", "cfm"], ["purrception,", "cfm"]])
def test_a_list_has_spaces_and_may_have_commas(objectives: list[str]) -> None:
    from purrception.cli.compare import CompareOptions
    from purrception.cli.parsing import names_in

    options = parse(CompareOptions, VERBS["compare"], ["--objectives", *objectives])
    assert names_in(options.objectives) == ["purrception", "cfm"]


def test_classes_take_turns_until_there_are_as_many_images() -> None:
    assert in_turn((), None) == (None, 64)
    assert in_turn((), 5) == (None, 5)
    assert in_turn(("3", "7"), None) == (["3", "7"], None)
    assert in_turn(("0",), 5) == (["0"] * 5, None)
    assert in_turn(("3", "7"), 3) == (["3", "7", "3"], None)
    with pytest.raises(InputError, match="--num is at least 2, one image of each"):
        in_turn(("3", "7"), 1)


def test_an_option_is_found_by_its_meaning() -> None:
    known = [option.name for option in options_of(TrainOptions)]
    assert by_meaning("--steps", known)[0] == "--training.steps"
    assert by_meaning("--lr", known)[0] == "--training.learning-rate"
    assert by_meaning("--tokenizer.steps", known) == ["--tokenizer.training.steps"]
    assert by_meaning("--cfg", ["--guidance", "--steps"]) == ["--guidance"]
    assert by_meaning("--nothing", known) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "digits", "--steps", "10"], "did you mean '--training.steps'"),
        (["train", "RUN", "--resume"], "--resume comes first: purrception train --resume RUN"),
        (["train", "tiny", "--resume"], "purrception train --resume runs/tiny"),
        (["train", "digits", "--resume", "RUN"], "purrception train --resume RUN"),
        (["train", "RUN"], "is a run: go on with it by purrception train --resume RUN"),
        (["train", "pictures"], "purrception train folder --data.root pictures"),
        (["tokenizer", "train", "digitz"], "unknown recipe or images 'digitz': did you mean 'digits'?"),
        (["tokenizer", "train", "pictuers"], "did you mean 'pictures'?"),
        (["sample", "runs/tinny"], "did you mean 'runs/tiny'?"),
        (["evaluate", "nowhere"], "here are runs/tiny; images are accepted as well"),
        (["studio", "tiny"], "did you mean 'runs/tiny'?"),
        (["export", "nowhere"], "here are runs/tiny"),
        (["prepare", "pictuers", "--tokenizer", "t", "--out", "o"], "did you mean 'pictures'?"),
        (["plan", "nowhere"], "unknown recipe 'nowhere': known: coco"),
        (["sample", "RUN", "--threshold", "1"], "sample does not have it, but edit refine does"),
        (["sample", "RUN", "3"], "cannot place '3': usage: purrception sample"),
        (["sample", "RUN", "--num", "0"], "--num asks for at least one image; given 0"),
        (["train", "--resume", "RUN", "--steps", "3"], "did you mean '--training.steps'"),
        (["evaluate", "--diff", "a"], "usage: purrception evaluate --diff A B [--anyway]"),
    ],
)
def test_what_was_meant_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/config.yaml").write_text("name: tiny\n", encoding="utf-8")
    given = [word.replace("RUN", "runs/tiny") for word in words]
    assert told.replace("RUN", "runs/tiny") in fails_with_one_line(capsys, *given)


@pytest.fixture
def completing(tmp_path: Path) -> Path:
    """A folder with one run, and this program as ``purrception`` on the path of a shell started there."""
    program = tmp_path / "bin/purrception"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m purrception "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/config.yaml").touch()
    return tmp_path


def test_bash_completes_commands_options_recipes_and_runs(completing: Path) -> None:
    cases = {
        "purrception tr": "train",
        "purrception edit in": "inpaint interpolate",
        "purrception train ph": "photos",
        "purrception train digits --training.st": "--training.steps",
        "purrception train digits --data.no-f": "--data.no-flips",
        "purrception train --resume ": "runs/mine",
        "purrception sample ": "runs/mine",
        "purrception sample runs/mine --precision ": "bfloat16 float32",
        "purrception tokenizer train --init": "--init-from",
        "purrception completion ": "bash fish zsh",
        "purrception prepare ": "",
    }
    script = 'eval "$(purrception completion bash)"\n'
    for line in cases:
        words = " ".join(f"'{word}'" for word in line.split(" "))
        script += f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()\n"
        script += '_purrception; (IFS=" "; echo "${COMPREPLY[*]}")\n'
    path = f"{completing / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=completing,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert dict(zip(cases, done.stdout.splitlines(), strict=True)) == cases


def test_a_dataclass_of_options_belongs_to_every_command() -> None:
    for verb in VERBS.values():
        assert dataclasses.is_dataclass(verb.options)
