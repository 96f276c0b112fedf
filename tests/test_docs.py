"""What the documents say can be run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from purrception.bench import BenchConfig
from purrception.cli.bench import BenchOptions
from purrception.cli.compare import CompareOptions
from purrception.cli.convert import CheckpointOptions, TokenizerOptions
from purrception.cli.diagnose import DiagnoseOptions, SuiteOptions
from purrception.cli.edit import InpaintOptions, InterpolateOptions, RefineOptions, VaryOptions
from purrception.cli.evaluate import EvaluateOptions
from purrception.cli.export import ExportOptions
from purrception.cli.sample import SampleOptions
from purrception.cli.sweep import SweepOptions
from purrception.cli.tokenizer import ReportOptions, TrainOptions
from purrception.experiment.config import DataOptions, RunConfig, TokenizerRunConfig
from purrception.experiment.plan import PlanOptions
from purrception.experiment.prepare import PrepareOptions
from purrception.studio import StudioOptions
from purrception.utils.settings import option_names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONS = {
    "train": {*option_names(RunConfig), "resume", "dry_run"},
    "sample": set(option_names(SampleOptions)),
    "evaluate": {*option_names(EvaluateOptions), "diff", "anyway"},
    "compare": {*option_names(RunConfig), *option_names(CompareOptions)},
    "sweep": set(option_names(SweepOptions)),
    "plan": {*option_names(RunConfig), *option_names(PlanOptions)},
    "diagnose": {*option_names(DiagnoseOptions), *option_names(SuiteOptions), "suite"},
    "bench": {*option_names(BenchConfig), *option_names(BenchOptions)},
    "prepare": set(option_names(PrepareOptions)),
    "convert": set(option_names(CheckpointOptions)),
    "studio": set(option_names(StudioOptions)),
    "export": set(option_names(ExportOptions)),
    "edit inpaint": set(option_names(InpaintOptions)),
    "edit interpolate": set(option_names(InterpolateOptions)),
    "edit refine": set(option_names(RefineOptions)),
    "edit vary": set(option_names(VaryOptions)),
    "tokenizer convert": set(option_names(TokenizerOptions)),
    "tokenizer report": {*option_names(DataOptions), *option_names(ReportOptions)},
    "tokenizer train": {*option_names(TokenizerRunConfig), *option_names(TrainOptions), "resume"},
}


def commands(page: Path) -> list[str]:
    """Every ``purrception …`` line in a page's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = [part for block in blocks for line in block.splitlines() for part in line.split("&&")]
    found = [re.search(r"(?:^|/)purrception (.*)", line.strip()) for line in lines]
    return [match.group(1) for match in found if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_use_verbs_and_options_that_exist(page: Path) -> None:
    for command in commands(page):
        verb, *words = shlex.split(command, comments=True)
        if verb in ("tokenizer", "edit"):
            verb = f"{verb} {words[0]}"
        assert verb in OPTIONS, command
        given = {word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")}
        assert given <= OPTIONS[verb], command


def test_the_readme_has_the_commands_that_ci_and_people_start_with() -> None:
    text = (ROOT / "README.md").read_text()
    assert "<!-- main command -->\n```bash\n" in text
    assert "<!-- test command -->\n```bash\n" in text
    assert len(commands(ROOT / "README.md")) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_annotated_tree_names_what_exists() -> None:
    tree = (ROOT / "README.md").read_text().split("```text\n")[1].split("```")[0]
    for name in re.findall(r"^  (\S+)", tree, flags=re.MULTILINE):
        assert (ROOT / "src/purrception" / name).exists(), name


def test_method_page_names_functions_that_exist() -> None:
    import purrception.flow as flow

    for name in re.findall(r"`flow\.(\w+)", (ROOT / "docs/method.md").read_text()):
        assert hasattr(flow, name), name
